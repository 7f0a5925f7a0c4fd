"""Who may ask the browser's server, and what its answers may do in a web browser. Plain ASGI."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

TOKEN_HEADER = "x-browser-token"
LARGEST_BODY = 64 << 10
# The page itself, which says nothing about anybody's data; all else needs the token.
_OPEN = re.compile(r"(/of/[\w.-]+)?(/(page/[\w.-]+)?)?", re.ASCII)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Refuse what does not come from this server's own page, before any route sees it.

    - `Host` must be one of `hosts`: a foreign name that resolves to this machine (DNS rebinding) is refused.
    - A POST must say an `Origin` of one of them, be JSON and say its length: other sites' pages are refused.
    - Everything but the page's own files must carry the token of this start: other users and programs of the machine
      are refused.
    """

    def __init__(self, app: App, *, token: str, hosts: set[str]) -> None:
        self._app, self._token = app, token
        self._hosts, self._origins = hosts, {f"http://{host}" for host in hosts}

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(n, v) for n, v in message.get("headers", []) if n.decode().lower() not in _HEADERS]
                message["headers"] = kept + [(n.encode(), v.encode()) for n, v in _HEADERS.items()]
            await send(message)

        status, reason = self._refusal(scope)
        if not status:
            await self._app(scope, receive, guarded)
            return
        body = json.dumps({"error": reason}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await guarded({"type": "http.response.start", "status": status, "headers": headers})
        await guarded({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Message) -> tuple[int, str]:
        """A status and a sentence, or 0 where the request is fine."""
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            if key in headers and key in ("host", "origin", TOKEN_HEADER):
                return 400, f"{key}: given twice"
            headers[key] = value.decode("latin-1")
        if headers.get("host") not in self._hosts:
            return 403, "Host: not the name of this server"
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins:
            return 403, "Origin: another site's page may not ask this server"
        if scope["method"] == "POST":
            if origin is None:
                return 403, "Origin: missing; only the page of this server may change or compute something"
            if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return 415, "Content-Type: expected application/json"
            length = headers.get("content-length", "")
            if not length.isdigit():
                return 411, "Content-Length: missing"
            if int(length) > LARGEST_BODY:
                return 413, f"body: {length} bytes, expected at most {LARGEST_BODY}"
        elif scope["method"] not in ("GET", "HEAD"):
            return 405, f"method: {scope['method']} is not offered"
        if _OPEN.fullmatch(scope["path"]) is None:
            given = headers.get(TOKEN_HEADER, "")
            if not secrets.compare_digest(given.encode("latin-1"), self._token.encode()):
                return (
                    401,
                    "the token is missing or of an earlier start; open the address that the command printed",
                )
        return 0, ""

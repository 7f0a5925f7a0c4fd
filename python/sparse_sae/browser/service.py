"""What the routes of one browser file do, and the table of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

try:
    import anyio
    from anyio import to_thread
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
except ImportError as error:
    raise ImportError(
        f"the page needs the package {error.name!r}, which is not installed. "
        'It comes with an extra: pip install "sparse-sae[browser]"'
    ) from None

from sparse_sae.browser import user
from sparse_sae.browser.file import BrowserFile
from sparse_sae.browser.live import Live

_PAGE = Path(__file__).parent / "page"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Service:
    """What the routes do.

    Args:
        file: the opened file.
        live: the model and the SAE, or None.
        graph: an attribution graph as Neuronpedia's JSON, or None.
        lock: held while the model computes; files of one model share it.
        name: of this file among `names`, those of a set, between which the page lets one choose.
    """

    def __init__(
        self,
        file: BrowserFile,
        live: Live | None,
        graph: dict[str, Any] | None,
        lock: anyio.Lock,
        name: str = "",
        names: Sequence[str] = (),
    ) -> None:
        self._file, self._live, self._graph = file, live, graph
        self._model_lock, self._name, self._names = lock, name, names

    @property
    def routes(self) -> list[Route]:
        """The table of routes."""
        get, post = ["GET"], ["POST"]
        return [
            Route("/", self.page, methods=get),
            Route("/page/{name}", self.page, methods=get),
            Route("/api/meta", self.meta, methods=get),
            Route("/api/latents", self.latents, methods=get),
            Route("/api/latent/{latent:int}", self.latent, methods=get),
            Route("/api/map", self.map, methods=get),
            Route("/api/graph", self.graph, methods=get),
            Route("/api/label", self.label, methods=post),
            Route("/api/list", self.list, methods=post),
            Route("/api/text", self.text, methods=post),
            Route("/api/explain", self.explain, methods=post),
            Route("/api/steer", self.steer, methods=post),
        ]

    async def page(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        path = _PAGE / name
        if path.name not in {p.name for p in _PAGE.iterdir()} or path.suffix not in _TYPES:
            return JSONResponse({"error": f"no file {name[:50]!r}"}, 404)
        return Response(path.read_bytes(), media_type=_TYPES[path.suffix])

    async def meta(self, request: Request) -> Response:
        abilities = self._live.abilities if self._live else {}
        return _json(
            self._file.meta
            | {
                "abilities": abilities,
                "lists": self._file.lists(),
                "statistics": self._file.statistics(),
                "graph": self._graph is not None,
                "name": self._file.path.name,
                "files": [{"name": name, "current": name == self._name} for name in self._names],
            }
        )

    async def latents(self, request: Request) -> Response:
        given = dict(request.query_params)
        text, sort, kind = given.pop("text", ""), given.pop("sort", ""), given.pop("kind", "")
        listed, offset = given.pop("list", None), int(given.pop("offset", "0"))
        filters = {name: float(value) for name, value in given.items()}
        number = None if listed is None else int(listed)
        return _json(
            await to_thread.run_sync(
                lambda: self._file.latents(
                    text[:500], sort=sort, kind=kind, listed=number, offset=offset, filters=filters
                )
            )
        )

    async def latent(self, request: Request) -> Response:
        return _json(await to_thread.run_sync(self._file.latent, request.path_params["latent"]))

    async def map(self, request: Request) -> Response:
        return Response(self._file.map().tobytes(), media_type="application/octet-stream")

    async def graph(self, request: Request) -> Response:
        if self._graph is None:
            raise LookupError("no graph was given: start with --graph FILE, or open a file on the page")
        return _json(self._graph)

    async def label(self, request: Request) -> Response:
        body = await _body(request)
        latent = self._known(body.get("latent"))
        text = await to_thread.run_sync(
            user.set_label, self._file.path, latent, body.get("text"), body.get("before", "")
        )
        return _json({"text": text})

    async def list(self, request: Request) -> Response:
        body = await _body(request)
        path, action, number = self._file.path, body.get("action"), body.get("list")
        if action == "create":
            number = await to_thread.run_sync(user.create_list, path, body.get("name"))
        elif type(number) is not int:
            raise ValueError(f"list: got {number!r:.50}, expected the number of a list")
        elif action == "delete":
            await to_thread.run_sync(user.delete_list, path, number)
        elif action in ("add", "remove"):
            latent = self._known(body.get("latent"))
            await to_thread.run_sync(user.set_member, path, number, latent, action == "add")
        else:
            raise ValueError(f"action: got {action!r:.50}, expected create, delete, add or remove")
        return _json({"list": number, "lists": self._file.lists()})

    def _known(self, latent: Any) -> int:
        if type(latent) is not int or not 0 <= latent < len(self._file):
            raise ValueError(f"latent: got {latent!r:.50}, expected 0 to {len(self._file) - 1}")
        return latent

    def _model(self) -> Live:
        if self._live is None:
            raise LookupError("the model is not loaded: start again with --model (and --sae for a file)")
        return self._live

    async def text(self, request: Request) -> Response:
        body, live = await _body(request), self._model()
        async with self._model_lock:
            return _json(await to_thread.run_sync(live.text, body.get("text"), body.get("chat")))

    async def explain(self, request: Request) -> Response:
        body, live = await _body(request), self._model()
        async with self._model_lock:
            return _json(await to_thread.run_sync(live.explain, body.get("ids"), body.get("position")))

    async def steer(self, request: Request) -> Response:
        body, live = await _body(request), self._model()
        steps = live.steer(
            body.get("text"),
            self._known(body.get("latent")),
            body.get("mode"),
            body.get("strength"),
            body.get("tokens"),
            body.get("chat"),
        )

        async def events() -> AsyncIterator[str]:
            # A reader who goes away cancels this at the next await, and the lock is free again.
            async with self._model_lock:
                try:
                    while (step := await to_thread.run_sync(next, steps, None)) is not None:
                        yield f"data: {json.dumps(step)}\n\n"
                except ValueError as error:
                    yield f"data: {json.dumps({'error': str(error)})}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")


def _json(value: Any) -> Response:
    return Response(json.dumps(value, allow_nan=False), media_type="application/json")


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        raise ValueError("body: not JSON") from None
    if not isinstance(body, dict):
        raise ValueError("body: expected a JSON object")
    return body

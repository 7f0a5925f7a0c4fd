"""The browser's server on 127.0.0.1, for the page that it hands out and for nobody else.

Every request must name this host; what changes or computes something must come from this page (`Origin`), and every
request for data carries the token of this start, which only the printed address holds. Several files are served
side by side, each below /of/NAME/ with routes and page of its own.
"""

from __future__ import annotations

import secrets
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

try:
    import anyio
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, RedirectResponse, Response
    from starlette.routing import BaseRoute, Mount, Route
except ImportError as error:
    raise ImportError(
        f"the page needs the package {error.name!r}, which is not installed. "
        'It comes with an extra: pip install "sparse-sae[browser]"'
    ) from None

from sparse_sae.browser import user
from sparse_sae.browser.file import BrowserFile
from sparse_sae.browser.graphs import read_graph
from sparse_sae.browser.guard import Guard
from sparse_sae.browser.listening import listen
from sparse_sae.browser.live import Live
from sparse_sae.browser.service import Service


def application(
    file: BrowserFile | Mapping[str, BrowserFile],
    *,
    token: str,
    hosts: set[str],
    live: Live | Mapping[str, Live] | None = None,
    graph: dict[str, Any] | None = None,
) -> Guard:
    """The ASGI application.

    Args:
        file: an opened file, or several by the name that their addresses have (letters, digits, `.`, `_`, `-`).
        token: what requests for data must carry. hosts: what `Host` may say, ports included.
        live: the model with the SAE of the file; with several files, by the same names.
        graph: an attribution graph, which every file's page can open.
    """

    def failed(status: int) -> Callable[[Request, Exception], Response]:
        return lambda request, error: JSONResponse({"error": str(error)}, status)

    handlers: dict[Any, Any] = {
        user.Conflict: failed(409),
        ValueError: failed(400),
        LookupError: failed(404),
        OSError: failed(503),
    }
    lock = anyio.Lock()
    routes: list[BaseRoute]
    if isinstance(file, BrowserFile):
        if isinstance(live, Mapping):
            raise TypeError("live: several, for one file; expected one or None")
        routes = [*Service(file, live, graph, lock).routes]
    else:
        models: Mapping[str, Live] = live if isinstance(live, Mapping) else {}
        names = list(file)
        first = RedirectResponse(f"/of/{names[0]}/")  # a browser keeps the fragment, and in it the token
        routes = [Route("/", lambda request: first, methods=["GET"])]
        for name, each in file.items():
            service = Service(each, models.get(name), graph, lock, name, names)
            routes.append(Mount(f"/of/{name}", routes=service.routes))
    return Guard(Starlette(routes=routes, exception_handlers=handlers), token=token, hosts=hosts)


def serve(
    path: Path | Mapping[str, Path],
    *,
    sae: Any = None,
    model: Any = None,
    graph: Path | None = None,
    port: int = 0,
    open_page: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Show a browser file, or those of a set, until interrupted.

    Args:
        path: the file; or a file for each name, between which the page lets one choose.
        sae, model: both, for live text and steering; with several files, an SAE for each name.
        graph: an attribution graph to show.
        port: 0 takes a free one. open_page: open the user's web browser.

    Raises:
        ValueError: a model without an SAE. OSError: the port is taken.

    >>> serve(Path("sae.db"))  # doctest: +SKIP
    """
    if model is not None and not sae:
        raise ValueError(
            "sae: the model is given without the SAE, which live text and steering need too; give --sae"
        )
    shown = None if graph is None else read_graph(graph)
    file: BrowserFile | dict[str, BrowserFile]
    live: Live | dict[str, Live] | None = None
    if isinstance(path, Mapping):
        file = {name: BrowserFile(each) for name, each in path.items()}
        opened = list(file.values())
        if model is not None:
            live = {name: Live(model, sae[name], each) for name, each in file.items() if name in sae}
    else:
        file = BrowserFile(path)
        opened = [file]
        live = None if model is None else Live(model, sae, file)
    listener = listen(port)
    port = listener.getsockname()[1]
    token = secrets.token_urlsafe(24)
    hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
    app = application(file, token=token, hosts=hosts, live=live, graph=shown)
    address = f"http://127.0.0.1:{port}/#/?token={token}"
    off = "" if live else "; live text and steering are off (start with --model for them)"
    listed = "\n".join(map(repr, opened))
    say(f"{listed}\n{address}\nCtrl-C stops it{off}")
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", server_header=False)
    if open_page:
        webbrowser.open(address)
    uvicorn.Server(config).run(sockets=[listener])
    for each in opened:
        each.close()

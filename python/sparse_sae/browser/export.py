"""Chosen latents as one HTML file that asks nothing of anyone."""

from __future__ import annotations

import base64
import decimal
import gzip
import hashlib
import html
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._arguments import whole
from sparse_sae._io.atomic import atomic_write
from sparse_sae.browser.file import BrowserFile

_PAGE = Path(__file__).parent / "page"
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w-]+\.js)";$', re.M)
_AS_SHOWN = decimal.Context(prec=3, rounding=decimal.ROUND_HALF_UP)
_KEPT = (
    "model_name",
    "hook_name",
    "d_sae",
    "d_in",
    "rows",
    "texts",
    "excluded",
    "dead",
    "l0",
    "coactivation_rows",
    "compared",
    "auroc_chance",
)


def write_html(file: BrowserFile, path: str | Path, latents: Iterable[int]) -> None:
    """One HTML file with the list and every panel of chosen latents; it opens offline and sends no request.

    Args:
        file: what `open_browser` gives.
        path: the file; replaced whole or not at all.
        latents: their numbers, in the order of the list.

    Raises:
        ValueError: no latents, or one twice. IndexError: no such latent.

    >>> write_html(open_browser("sae.db"), "refunds.html", [17, 4])  # doctest: +SKIP
    """
    meta = {name: file.meta[name] for name in _KEPT} | {"name": file.path.stem}
    data = {"meta": meta} | packed(file, chosen_latents(latents))
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    small = gzip.compress(text.encode(), 9, mtime=0)
    script, style = bundle("offline.js"), (_PAGE / "style.css").read_text()
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'"
    )
    document = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy, quote=True)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(file.path.stem)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        # base64 holds none of the characters that could end the element
        f'<script type="application/octet-stream" id="data">{base64.b64encode(small).decode()}</script>\n'
        f'<script type="module">{script}</script>\n</body>\n</html>\n'
    )
    with atomic_write(path) as out:
        out.write(document.encode())


def chosen_latents(latents: Iterable[int]) -> list[int]:
    """The numbers of latents to export, checked. Raises a ValueError for none, or for one given twice."""
    chosen = [whole("latents", j) for j in latents]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"latents: got {'one twice' if chosen else 'none'}; expected at least one, and none twice"
        )
    return chosen


def packed(file: BrowserFile, chosen: list[int]) -> dict[str, Any]:
    """What the export's script needs of latents, as JSON values in which nothing is said twice.

    Returns:
        strings: every text once; all else names texts by their places here.
        stream: the tokens of all windows, each token of the store once, however many contexts show it.
        latents: as `BrowserFile.latent` gives them, but texts are numbers and a context is one flat list
            [begin in stream, length, place of its firing, activation there, other place, activation, …].
    """
    strings: dict[str, int] = {}

    def number(text: str) -> int:
        return strings.setdefault(text, len(strings))

    shown, seen = [], np.zeros(file.meta["stream"] + 1, bool)
    for j in chosen:
        latent = file.latent(j)
        for group in latent["contexts"]:
            for i, context in enumerate(group):
                begin, length = context["row"] - context["at"], len(context["tokens"])
                seen[begin : begin + length] = True
                others = (n for o, v in context["active"] if o != context["at"] for n in (o, _short(v)))
                group[i] = [begin, length, context["at"], _short(context["value"]), *others]
        for near in (*latent["nearest"], *latent["together"]):
            near["label"] = number(near["label"])
        for side in ("promoted", "suppressed") if latent["logits"] else ():
            latent["logits"][side] = [[number(t), _short(v)] for t, v in latent["logits"][side]]
        del latent["evidence"]["tokens"], latent["evidence"]["texts"]
        shown.append(latent)
    place = np.cumsum(seen) - 1
    for latent in shown:
        for group in latent["contexts"]:
            for context in group:
                context[0] = int(place[context[0]])
    # windows that touch or overlap are one run, which is read at once
    ends = np.flatnonzero(np.diff(seen, prepend=False)).reshape(-1, 2).tolist()
    stream = [number(file.texts[t]) for begin, end in ends for t in file.tokens(begin, end).tolist()]
    return {"latents": shown, "stream": stream, "strings": list(strings)}


def _short(value: float) -> float:
    """As the page rounds it: three significant digits, ties away from zero."""
    return float(_AS_SHOWN.create_decimal_from_float(value))


def bundle(main: str) -> str:
    """A module of the page and all that it imports, as one script.

    Modules import by names on one line and export with `export` in front, and no name occurs in two of them; a test
    holds them to it.
    """
    done: dict[str, str] = {}

    def add(name: str) -> None:
        if name in done:
            return
        text = (_PAGE / name).read_text()
        done[name] = ""  # a circle would otherwise not end
        for needed in _IMPORT.findall(text):
            add(needed)
        del done[name]
        done[name] = re.sub(r"^export ", "", _IMPORT.sub("", text), flags=re.M)

    add(main)
    return "\n".join(done.values())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

"""A latent in a notebook: `open_browser("sae.db")[17]`. Plain HTML, no script, everything from the data escaped."""

from __future__ import annotations

import html
from typing import Any

_SHOWN = 8
_STYLE = (
    "font-family:system-ui,sans-serif;max-width:56em;border:1px solid #8886;border-radius:8px;padding:.8em 1em;"
    "line-height:1.5"
)


class Latent:
    """One latent of a browser file.

    Attributes:
        data: everything the page shows of it, as JSON values.

    >>> open_browser("sae.db")[17].data["density"]  # doctest: +SKIP
    0.0012
    """

    def __init__(self, data: dict[str, Any], meta: dict[str, Any]) -> None:
        self.data, self._meta = data, meta

    def __repr__(self) -> str:
        name = self.data["note"] or self.data["label"]
        share, rows = self.data["density"], self._meta["rows"]
        return f"<latent {self.data['id']} {name}: fires on {share:.3%} of {rows:,} tokens>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        d = self.data
        name = html.escape(visible(d["note"] or d["label"]))
        parts = [
            f'<div style="{_STYLE}"><b>Latent {d["id"]}</b> · {name}<br>'
            f"<small>{html.escape(evidence(d, self._meta))}</small>{_bars(d['histogram'])}"
        ]
        for context in d["contexts"][0][:_SHOWN]:
            parts.append(f"<div>{_context(context, d['maximum'])}</div>")
        if d["logits"]:
            for title, side in (("promotes", "promoted"), ("suppresses", "suppressed")):
                words = ", ".join(f"<code>{html.escape(visible(t))}</code>" for t, _ in d["logits"][side])
                parts.append(f"<small>{title} {words}</small><br>")
        return "".join(parts) + "</div>"


def evidence(d: dict[str, Any], meta: dict[str, Any]) -> str:
    """The sentence under a label: what it rests on."""
    said = (
        f"fires on {d['count']:,} of {meta['rows']:,} tokens ({d['density']:.3%}), up to {d['maximum']:.3g}"
    )
    e = d["evidence"]
    if e["kind"] in ("on", "after"):
        said += (
            f"; {e['cover']:.0%} of its {e['strong']} strong firings are {e['kind']} these tokens, and it fires at "
            f"{e['precision']:.0%} of their occurrences (at any token: {e['base']:.2%})"
        )
    return said + "."


def visible(text: str) -> str:
    """A text whose control, zero-width and bidirectional characters can be seen, and which is not endless."""
    shown = "".join(_VISIBLE.get(c, c) if c.isprintable() or c == " " else _name(c) for c in text[:200])
    return shown + (f"… ({len(text):,} characters)" if len(text) > 200 else "")


_VISIBLE = {"\n": "↵", "\t": "⇥"}


def _name(c: str) -> str:
    return _VISIBLE.get(c, f"[U+{ord(c):04X}]")


def _context(context: dict[str, Any], maximum: float) -> str:
    active = dict(context["active"])
    shown = []
    for i, token in enumerate(context["tokens"]):
        share = min(1.0, abs(active.get(i, 0.0)) / maximum) if maximum else 0.0
        style = f"background:rgba(255,140,0,{0.75 * share:.2f})" if share else ""
        style += ";font-weight:600" if i == context["at"] else ""
        shown.append(f'<bdi style="{style}">{html.escape(visible(token))}</bdi>')
    return f"<small>{context['value']:.3g}</small> " + "".join(shown)


def _bars(heights: list[int]) -> str:
    top = max(heights) or 1
    bars = "".join(
        f'<rect x="{4 * i}" y="{40 * (1 - h / top):.1f}" width="3" height="{40 * h / top:.1f}"/>'
        for i, h in enumerate(heights)
    )
    return (
        f'<svg width="{4 * len(heights)}" height="42" fill="#e07b00" role="img" style="display:block;margin:.4em 0" '
        f'aria-label="histogram of activations from 0 to the maximum">{bars}</svg>'
    )

"""Chosen latents as one HTML file that asks nothing of anyone, or as Neuronpedia's JSON."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparse_sae._arguments import whole
from sparse_sae._io.atomic import atomic_directory, atomic_write, write_json
from sparse_sae.browser.file import BrowserFile

_PAGE = Path(__file__).parent / "page"
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w-]+\.js)";$', re.M)
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
_NEURONPEDIA = "neuronpedia.json"


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
    chosen = _chosen(latents)
    words: dict[str, int] = {}
    shown = [_numbered(file.latent(j), words) for j in chosen]
    meta = {name: file.meta[name] for name in _KEPT} | {"name": file.path.stem}
    data = {"meta": meta, "latents": shown, "words": list(words)}
    packed = gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 9, mtime=0)
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
        f'<script type="application/octet-stream" id="data">{base64.b64encode(packed).decode()}</script>\n'
        f'<script type="module">{script}</script>\n</body>\n</html>\n'
    )
    with atomic_write(path) as out:
        out.write(document.encode())


def _chosen(latents: Iterable[int]) -> list[int]:
    chosen = [whole("latents", j) for j in latents]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError("latents: expected at least one, and none twice")
    return chosen


def _numbered(latent: dict[str, Any], words: dict[str, int]) -> dict[str, Any]:
    """Token texts as numbers into `words`, which grows: most texts come again and again."""
    for group in latent["contexts"]:
        for context in group:
            context["tokens"] = [words.setdefault(text, len(words)) for text in context["tokens"]]
            del context["row"]
    return latent


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


def write_neuronpedia(file: BrowserFile, path: str | Path, latents: Iterable[int]) -> None:
    """A directory of Neuronpedia's columns: `features.json`, and a file of activations for each latent.

    Columns that need what the file does not have are left out: logits where it was built without the model.

    Args:
        file: what `open_browser` gives. path: the directory; one of an earlier export is replaced. latents: which.
    """
    chosen = _chosen(latents)
    with atomic_directory(path, lambda there: (there / _NEURONPEDIA).is_file()) as fresh:
        write_json(
            fresh / _NEURONPEDIA,
            {"model": file.meta["model_name"], "hook": file.meta["hook_name"], "latents": chosen},
        )
        features = []
        for j in chosen:
            latent = file.latent(j)
            features.append(feature_columns(latent))
            write_json(fresh / f"activations-{j}.json", activation_columns(latent))
        write_json(fresh / "features.json", features)


def feature_columns(latent: dict[str, Any]) -> dict[str, Any]:
    """A row of Neuronpedia's table of features."""
    maximum, bins = latent["maximum"], len(latent["histogram"])
    row: dict[str, Any] = {
        "index": str(latent["id"]),
        "frac_nonzero": latent["density"],
        "maxActApprox": maximum,
        "freq_hist_data_bar_heights": latent["histogram"],
        "freq_hist_data_bar_values": [maximum * (i + 0.5) / bins for i in range(bins)],
        "topkCosSimIndices": [n["id"] for n in latent["nearest"]],
        "topkCosSimValues": [n["cosine"] for n in latent["nearest"]],
        "correlated_neurons_indices": [n["id"] for n in latent["together"]],
        "correlated_neurons_pearson": [n["phi"] for n in latent["together"]],
    }
    logits = latent["logits"]
    if logits:
        step = (logits["high"] - logits["low"]) / len(logits["heights"])
        row |= {
            "pos_str": [t for t, _ in logits["promoted"]],
            "pos_values": [v for _, v in logits["promoted"]],
            "neg_str": [t for t, _ in logits["suppressed"]],
            "neg_values": [v for _, v in logits["suppressed"]],
            "logits_hist_data_bar_heights": logits["heights"],
            "logits_hist_data_bar_values": [
                logits["low"] + step * (i + 0.5) for i in range(len(logits["heights"]))
            ],
        }
    return row


def activation_columns(latent: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of Neuronpedia's table of activations: the strongest contexts (bin -1), then those of each interval."""
    rows = []
    for number, group in enumerate(latent["contexts"]):
        interval = len(latent["contexts"]) - 1 - number
        share = latent["intervals"][interval] / latent["count"] if number and latent["count"] else None
        for context in group:
            active = dict(context["active"])
            values = [active.get(i, 0.0) for i in range(len(context["tokens"]))]
            place = max(range(len(values)), key=lambda i: abs(values[i]))
            rows.append(
                {
                    "index": str(latent["id"]),
                    "tokens": context["tokens"],
                    "values": values,
                    "maxValue": values[place],
                    "maxValueTokenIndex": place,
                    "qualifyingTokenIndex": context["at"],
                    "binMin": -1 if not number else latent["maximum"] * interval / 10,
                    "binMax": -1 if not number else latent["maximum"] * (interval + 1) / 10,
                    "binContains": -1 if share is None else share,
                }
            )
    return rows

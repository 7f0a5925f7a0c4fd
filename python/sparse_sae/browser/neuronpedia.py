"""Neuronpedia's columns of chosen latents, and a directory of them as JSON. `parquet` writes the same as Parquet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparse_sae._io.atomic import atomic_directory, write_json
from sparse_sae.browser.export import chosen_latents
from sparse_sae.browser.file import BrowserFile

ABOUT = "neuronpedia.json"  # in every such directory, which it makes known as one


def write_neuronpedia(file: BrowserFile, path: str | Path, latents: Iterable[int]) -> None:
    """A directory of Neuronpedia's columns: `features.json`, and a file of activations for each latent.

    Columns that need what the file does not have are left out: logits where it was built without the model.

    Args:
        file: what `open_browser` gives. path: the directory; one of an earlier export is replaced. latents: which.
    """
    chosen = chosen_latents(latents)
    with atomic_directory(path, lambda there: (there / ABOUT).is_file()) as fresh:
        write_json(fresh / ABOUT, about(file, chosen))
        features = []
        for j in chosen:
            latent = file.latent(j)
            features.append(feature_columns(latent))
            write_json(fresh / f"activations-{j}.json", activation_columns(latent))
        write_json(fresh / "features.json", features)


def about(file: BrowserFile, chosen: list[int]) -> dict[str, Any]:
    """Which model, hook point and latents a directory is of."""
    return {"model": file.meta["model_name"], "hook": file.meta["hook_name"], "latents": chosen}


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

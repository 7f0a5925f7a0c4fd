"""Neuronpedia's columns of chosen latents as two Parquet files, a few latents in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparse_sae._io.atomic import atomic_directory, write_json
from sparse_sae.browser.export import chosen_latents
from sparse_sae.browser.file import BrowserFile
from sparse_sae.browser.neuronpedia import ABOUT, about, activation_columns, feature_columns

GROUP = 256  # latents a row group: as many are in memory at once

# column -> type; "[…]" is a list of it
_FEATURES = {
    "modelId": "string",
    "layer": "string",
    "index": "string",
    "frac_nonzero": "float64",
    "maxActApprox": "float32",
    "freq_hist_data_bar_heights": "[int64]",
    "freq_hist_data_bar_values": "[float32]",
    "topkCosSimIndices": "[int32]",
    "topkCosSimValues": "[float32]",
    "correlated_neurons_indices": "[int32]",
    "correlated_neurons_pearson": "[float32]",
}
_LOGITS = {
    "pos_str": "[string]",
    "pos_values": "[float32]",
    "neg_str": "[string]",
    "neg_values": "[float32]",
    "logits_hist_data_bar_heights": "[int64]",
    "logits_hist_data_bar_values": "[float32]",
}
_ACTIVATIONS = {
    "modelId": "string",
    "layer": "string",
    "index": "string",
    "tokens": "[string]",
    "values": "[float32]",
    "maxValue": "float32",
    "maxValueTokenIndex": "int32",
    "qualifyingTokenIndex": "int32",
    "binMin": "float32",
    "binMax": "float32",
    "binContains": "float32",
}


def write_parquet(file: BrowserFile, path: str | Path, latents: Iterable[int]) -> None:
    """A directory of Neuronpedia's columns: `features.parquet`, a row a latent, `activations.parquet`, a row a context.

    Columns are those of `sparse_sae.browser.neuronpedia`, with the model (`modelId`) and hook point (`layer`) in each
    row, so that files of several SAEs can be joined. `index` is the latent's number as text, as Neuronpedia has it;
    `frac_nonzero` is a share from 0 to 1; activations are in units of the SAE's codes. Columns that need what the
    file does not have are left out: logits where it was built without the model.

    Args:
        file: what `open_browser` gives.
        path: the directory; one of an earlier export is replaced, whole or not at all.
        latents: their numbers, in the order of the rows.

    Raises:
        ImportError: pyarrow is not installed, which the extra [parquet] brings.
        ValueError: no latents, or one twice. IndexError: no such latent.
        FileExistsError: path is something else.

    >>> write_parquet(open_browser("sae.db"), "parquet", range(100))  # doctest: +SKIP
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ImportError(
            "format: Parquet needs pyarrow, which is not installed: pip install 'sparse-sae[parquet]'"
        ) from None

    def schema(columns: dict[str, str]) -> Any:
        def of(name: str) -> Any:
            return pyarrow.list_(of(name[1:-1])) if name[0] == "[" else pyarrow.type_for_alias(name)

        return pyarrow.schema([(column, of(name)) for column, name in columns.items()])

    chosen = chosen_latents(latents)
    of_file = {"modelId": file.meta["model_name"], "layer": file.meta["hook_name"]}
    features = schema(_FEATURES | (_LOGITS if file.meta["logits"] else {}))
    activations = schema(_ACTIVATIONS)
    with atomic_directory(path, lambda there: (there / ABOUT).is_file()) as fresh:
        write_json(fresh / ABOUT, about(file, chosen))
        with (
            parquet.ParquetWriter(fresh / "features.parquet", features, compression="zstd") as of_latents,
            parquet.ParquetWriter(
                fresh / "activations.parquet", activations, compression="zstd"
            ) as of_contexts,
        ):
            for start in range(0, len(chosen), GROUP):
                some = [file.latent(j) for j in chosen[start : start + GROUP]]
                rows = [of_file | feature_columns(latent) for latent in some]
                of_latents.write_table(pyarrow.Table.from_pylist(rows, features))
                rows = [of_file | row for latent in some for row in activation_columns(latent)]
                of_contexts.write_table(pyarrow.Table.from_pylist(rows, activations))

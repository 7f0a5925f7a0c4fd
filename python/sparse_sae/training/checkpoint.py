"""One file that holds all a run needs to go on bit-identically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .._io.arrays import Array
from .._io.safetensors import write_tensors

NAME = "checkpoint.safetensors"


def save(directory: Path, groups: dict[str, dict[str, Array]], state: dict[str, Any]) -> None:
    """Write groups of arrays (parameters, moments, counters) and a JSON state, replacing the last checkpoint."""
    tensors = {f"{group}.{name}": array for group, arrays in groups.items() for name, array in arrays.items()}
    write_tensors(directory / NAME, tensors, {"state": json.dumps(state)})


def load(directory: Path) -> tuple[dict[str, dict[str, Array]], dict[str, Any]]:
    """What `save` wrote.

    Raises:
        FileNotFoundError: no checkpoint there. ValueError: the file is not one.
    """
    from safetensors import SafetensorError, safe_open

    file = directory / NAME
    if not file.is_file():
        raise FileNotFoundError(f"resume: no {NAME} in {directory}; start the run without resume")
    groups: dict[str, dict[str, Array]] = {}
    try:
        with safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            for key in opened.keys():  # noqa: SIM118 (not a dict)
                group, _, name = key.partition(".")
                groups.setdefault(group, {})[name] = np.array(opened.get_tensor(key))
        return groups, json.loads(metadata["state"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"resume: {file} is not a complete checkpoint ({error}); start the run anew"
        ) from None


def exists(directory: Path) -> bool:
    """Whether a run in this directory can be resumed."""
    return (directory / NAME).is_file()

"""One file that holds all a run needs to go on bit-identically, and the directory it lies in."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae._io.atomic import atomic_write
from sparse_sae._io.files import FormatError
from sparse_sae._io.safetensors import checksum, map_tensors, read_header, write_tensors

NAME = "checkpoint.safetensors"
HISTORY = "history.jsonl"
_STATE = {
    "config": dict,
    "widths": list,
    "tokens": int,
    "adam_step": int,
    "variance": float,
    "power": float,
    "transforms": list,
    "history": list,
    "data": str,
}


def save(directory: Path, groups: dict[str, dict[str, Array]], state: dict[str, Any]) -> None:
    """Write groups of arrays (parameters, moments, counters) and a JSON state, replacing the last checkpoint."""
    tensors = {f"{group}.{name}": array for group, arrays in groups.items() for name, array in arrays.items()}
    text = json.dumps(state)
    write_tensors(directory / NAME, tensors, {"state": text, "crc32": checksum(tensors, text)})


def load(directory: Path) -> tuple[dict[str, dict[str, Array]], dict[str, Any]]:
    """What `save` wrote.

    Raises:
        FileNotFoundError: no checkpoint there. ValueError: the file is cut off, changed, or none.
    """
    file = directory / NAME
    if not file.is_file():
        raise FileNotFoundError(f"resume: no {NAME} in {directory}; start the run without resume")
    try:
        header = read_header(file)
        tensors = {name: np.array(value) for name, value in map_tensors(file, header).items()}
        found = checksum(tensors, header.metadata.get("state", ""))
        if header.metadata.get("crc32") != found:
            raise FormatError(f"its checksum is {header.metadata.get('crc32')}, expected {found}")
        state = json.loads(header.metadata["state"])
        wrong = [key for key, kind in _STATE.items() if not isinstance(state.get(key), kind)]
        if wrong:
            raise FormatError(f"its state has no good {', '.join(wrong)}")
    except (FormatError, KeyError, ValueError, RecursionError) as error:
        raise FormatError(
            f"resume: {file} is not a complete checkpoint ({error}); start the run anew"
        ) from None
    groups: dict[str, dict[str, Array]] = {"param": {}, "m": {}, "v": {}, "counter": {}}
    for key, value in tensors.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = value
    if "since_fired" not in groups["counter"]:
        raise FormatError(
            f"resume: {file} is not a complete checkpoint (no counter.since_fired); start the run anew"
        )
    return groups, state


def exists(directory: Path) -> bool:
    """Whether a run in this directory can be resumed."""
    return (directory / NAME).is_file()


def locked(directory: Path, *, resume: bool, overwrite: bool) -> int:
    """A handle that keeps other processes from training in a directory until it is closed, or this process ends.

    Raises:
        FileExistsError: another run lies there, which neither `resume` nor `overwrite` was said of.
        RuntimeError: another process trains there now.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise RuntimeError(
            f"out: another process trains in {directory}; wait for it, or give another out"
        ) from None
    except OSError:
        pass  # a file system without locks: two processes are then not told apart
    # A history alone is what a run killed before its first checkpoint has left: nothing to go on with.
    there = [name for name in (NAME, "sae") if (directory / name).exists()]
    if there and not (resume or overwrite):
        os.close(handle)
        raise FileExistsError(
            f"out: {directory} holds another run ({', '.join(there)}); pass resume=True to go on with it, "
            "overwrite=True to replace it, or another directory"
        )
    return handle


def write_history(directory: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write history.jsonl anew: records after the checkpoint that a killed run has left there are dropped."""
    with atomic_write(directory / HISTORY) as file:
        file.writelines((json.dumps(record) + "\n").encode() for record in history)

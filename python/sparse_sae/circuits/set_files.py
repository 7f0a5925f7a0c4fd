"""A set of dictionaries as a directory: a folder for each, and a manifest with the SHA-256 of every file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparse_sae._io.atomic import write_json
from sparse_sae.formats import load
from sparse_sae.sae import SAE

MANIFEST = "dictionaries.json"
_FORMAT = "sparse_sae dictionary set"
_VERSION = 1
_FIELDS = {"reads": str, "writes": str, "folder": str, "sha256": dict}


def is_set(path: Path) -> bool:
    """Whether a directory is a set, and so may be replaced by one."""
    return (path / MANIFEST).is_file()


def write_one(path: Path, number: int, reads: str, writes: str, sae: SAE) -> dict[str, Any]:
    """Write one dictionary of a set; its row of the manifest."""
    folder = f"{number:03d}"
    sae.save(path / folder)
    files = sorted(f for f in (path / folder).rglob("*") if f.is_file())
    hashes = {str(f.relative_to(path)): _sha256(f) for f in files}
    return {"reads": reads, "writes": writes, "folder": folder, "sha256": hashes}


def write_manifest(
    path: Path, model: str, rows: Sequence[dict[str, Any]], training: dict[str, Any] | None = None
) -> None:
    """The manifest of a set; training: the settings that every dictionary of it was trained with."""
    values = {"format": _FORMAT, "version": _VERSION, "model": model, "dictionaries": list(rows)}
    write_json(path / MANIFEST, values if training is None else {**values, "training": training})


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, with every field checked that is read from it.

    Raises:
        FileNotFoundError: there is none. ValueError: it is damaged, or of something else.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"path: there is no {file}; expected a directory of DictionarySet.save")
    try:
        manifest = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ValueError(f"{file}: field 'format' should read {_FORMAT!r}")
    if manifest.get("version") != _VERSION:
        raise ValueError(
            f"{file}: field 'version' is {manifest.get('version')!r}, this program reads {_VERSION}"
        )
    if not isinstance(manifest.get("model"), str):
        raise ValueError(f"{file}: field 'model' should be the model's name")
    if not isinstance(manifest.get("dictionaries"), list):
        raise ValueError(f"{file}: field 'dictionaries' should be a list")
    for number, row in enumerate(manifest["dictionaries"]):
        _check_row(f"{file}: entry {number} of 'dictionaries'", row)
    return manifest


def _check_row(at: str, row: Any) -> None:
    missing = set(_FIELDS) - set(row if isinstance(row, dict) else ())
    if missing:
        raise ValueError(f"{at} lacks {sorted(missing)}")
    for name, kind in _FIELDS.items():
        if not isinstance(row[name], kind):
            raise ValueError(f"{at}, field {name!r}: got {row[name]!r:.80}, expected a {kind.__name__}")
    if re.fullmatch(r"[\w-]+", row["folder"]) is None:
        raise ValueError(f"{at}, field 'folder': {row['folder']!r} is no folder's name")
    for name in row["sha256"]:
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise ValueError(f"{at} names a file outside the directory: {name!r}")


def read_one(path: Path, row: dict[str, Any]) -> SAE:
    """The dictionary of a row of the manifest, its files compared with their hashes."""
    for name, digest in row["sha256"].items():
        if not (path / name).is_file() or _sha256(path / name) != digest:
            raise ValueError(
                f"{path / name}: missing, or not the file that was saved (its SHA-256 differs); copy the set again"
            )
    return load(path / str(row["folder"]))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

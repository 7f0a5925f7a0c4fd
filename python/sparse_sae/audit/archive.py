"""A bundle as a zip file of which every byte is determined by its members, so that any other byte is found.

Members are stored, not compressed, in a fixed order and with a fixed date: reading makes the archive anew from its
members and compares. There is nothing to unpack that could grow, and no name that could lead out of a directory.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

from sparse_sae._io.atomic import atomic_write
from sparse_sae._io.files import FormatError, open_regular, reading
from sparse_sae.audit.hashes import canonical

# In this order; the last is there only in a signed bundle.
MEMBERS = (
    "manifest.json",
    "policy.json",
    "results.json",
    "samples.jsonl",
    "limitations.md",
    "report.html",
    "eval.json",
    "statement.json",
    "signature.json",
)
LIMIT = 1 << 28


def pack(members: dict[str, bytes]) -> bytes:
    """The bytes of the archive that holds these members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        for name in MEMBERS:
            if name in members:
                info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, 0o100644 << 16
                file.writestr(info, members[name])
    return out.getvalue()


def write(path: str | Path, members: dict[str, bytes]) -> None:
    """Write the archive, whole or not at all."""
    with atomic_write(path) as file:
        file.write(pack(members))


def read(path: str | Path) -> dict[str, bytes]:
    """The members of an archive that `write` wrote.

    Raises:
        FormatError: larger than 256 MiB; not a zip file; a member that is compressed, encrypted, twice there, missing
            or of another name; any byte that `pack` would not have written.
    """
    path = Path(path)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LIMIT:
            raise FormatError(f"{path}: {size} bytes, expected an audit bundle of at most {LIMIT}")
        content = file.read(size + 1)
    members: dict[str, bytes] = {}
    with reading(path, "an audit bundle"), zipfile.ZipFile(io.BytesIO(content)) as archive:
        for info in archive.infolist():
            if info.filename not in MEMBERS or info.filename in members:
                kind = "twice there" if info.filename in members else "no member of an audit bundle"
                raise FormatError(f"{path}: {info.filename[:80]!r} is {kind}")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size or info.flag_bits & 1:
                raise FormatError(
                    f"{path}: {info.filename} is compressed or encrypted; bundles are stored plainly"
                )
            members[info.filename] = archive.read(info)
    missing = [name for name in MEMBERS[:-1] if name not in members]
    if missing:
        raise FormatError(f"{path}: lacks {', '.join(missing)}")
    if pack(members) != content:
        raise FormatError(
            f"{path}: bytes outside its members were changed or added; it is not as it was written"
        )
    return members


def document(members: dict[str, bytes], name: str, path: Any = "bundle") -> Any:
    """The value of a JSON member, which must be written canonically."""
    with reading(Path(path), f"an audit bundle: {name}"):
        value = json.loads(members[name])
    with reading(Path(path), f"an audit bundle: {name}"):
        same = canonical(value) == members[name]
    if not same:
        raise FormatError(f"{path}: {name} is not in canonical form; it was edited")
    return value

"""The manifest of a store: what its shards hold, read with every field checked, and where stores lie."""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

from sparse_sae._io.files import FormatError, read_json
from sparse_sae.data.store.checks import block_count
from sparse_sae.data.store.format import Dtype, shard_layout

FORMAT = "sparse_sae.activations"
VERSION = 2  # 1 held no checksums of blocks
NAME = "manifest.json"
SHARD_NAME = re.compile(r"shard-\d{5,}\.safetensors")
_LIMIT = 256 << 20  # some 1300 bytes a shard of 32 MB, so a store of 6 TB
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I8": 1, "U8": 1}


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest in a directory.

    Raises:
        FormatError: missing, malformed, of another version, or a field that cannot be: shards outside the
            directory or named twice, more rows than a file of that size holds, counts that do not add up; or
            the whole does not have its checksum.
    """
    file = directory / NAME
    manifest = read_json(file, _LIMIT)
    version = manifest.get("version")
    if manifest.get("format") != FORMAT or type(version) is not int or version != VERSION:
        found = f"{manifest.get('format')!r:.60} version {manifest.get('version')!r:.20}"
        raise FormatError(f"path: {file} is of {found}, expected {FORMAT} version {VERSION}")
    need = _Fields(file, "", manifest)
    need("model", "a text", _text)
    need("hook", "a text", _text)
    need("d_in", "a width from 1 on", lambda v: _whole(v) and v >= 1)
    need("dtype", f"one of {', '.join(get_args(Dtype))}", lambda v: v in get_args(Dtype))
    need("metadata", "an object", lambda v: isinstance(v, dict))
    need("complete", "true or false", lambda v: isinstance(v, bool))
    shards = need("shards", "a list", lambda v: isinstance(v, list))
    layout = shard_layout(1, manifest["d_in"], manifest["dtype"]).values()
    row_bytes = sum(_ITEM_BYTES[dtype] * math.prod(shape) for dtype, shape in layout)
    seen: set[str] = set()
    for number, shard in enumerate(shards):
        part = _Fields(file, f"shards[{number}].", shard)
        part(
            "file",
            "the name of a file shard-….safetensors",
            lambda v: _text(v) and bool(SHARD_NAME.fullmatch(v)),
        )
        part("file", "a name once", lambda v: v not in seen)
        seen.add(shard["file"])
        part("bytes", "a size", _whole)
        most = shard["bytes"] // row_bytes
        part(
            "rows",
            f"at most {most}, which is what {shard['bytes']} bytes hold",
            partial(_at_most, most),
        )
        part("crc32", "a checksum for each block of it", partial(_checksums, block_count(shard["bytes"])))
        part("progress", "a number", _whole)
        part("state", "a text", _text)
    total = sum(shard["rows"] for shard in shards)
    need("count", f"{total}, the sum over its shards", lambda v: _whole(v) and v == total)
    if manifest["complete"]:
        _check_statistics(file, manifest)
    found = manifest_checksum(manifest)
    need("crc32", f"{found!r}, its checksum: it was damaged, or changed by hand", lambda v: v == found)
    return manifest


def checksum_on_disk(directory: Path) -> Any:
    """The checksum in a directory's manifest, unchecked; None where there is no manifest, or it has none."""
    file = directory / NAME
    return read_json(file, _LIMIT).get("crc32") if os.path.lexists(file) else None


def manifest_checksum(manifest: dict[str, Any]) -> str:
    """The CRC-32 of all fields but `crc32` itself, as hexadecimal digits."""
    rest = {key: value for key, value in manifest.items() if key != "crc32"}
    return f"{zlib.crc32(json.dumps(rest, sort_keys=True).encode()):08x}"


class _Fields:
    """Access to the fields of a JSON object that checks each."""

    def __init__(self, file: Path, prefix: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{file}: {prefix.rstrip('.')} is {value!r:.80}, expected an object")
        self.file, self.prefix, self.value = file, prefix, value

    def __call__(self, name: str, expected: str, good: Callable[[Any], bool]) -> Any:
        value = self.value.get(name)
        if not good(value):
            found = f"{value!r:.80}" if name in self.value else "missing"
            raise FormatError(f"{self.file}: {self.prefix}{name} is {found}, expected {expected}")
        return value


def _at_most(most: int, value: Any) -> bool:
    return _whole(value) and int(value) <= most


def _checksums(count: int, value: Any) -> bool:
    return _text(value) and len(value) == 8 * count and re.fullmatch("[0-9a-f]*", value) is not None


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _check_statistics(file: Path, manifest: dict[str, Any]) -> None:
    need = _Fields(file, "statistics.", manifest.get("statistics"))
    counts = _Fields(file, "statistics.counts.", need.value.get("counts"))
    for kind in ("first", "padding", "massive", "usable"):
        counts(kind, f"a count up to {manifest['count']}", lambda v: _whole(v) and v <= manifest["count"])
    massive = _Fields(file, "statistics.massive.", need.value.get("massive"))
    massive("threshold", "a norm or null", lambda v: v is None or (_number(v) and v >= 0))
    need("norm_percentiles", "an object", lambda v: isinstance(v, dict))
    need(
        "mean",
        f"{manifest['d_in']} numbers",
        lambda v: isinstance(v, list) and len(v) == manifest["d_in"] and all(map(_number, v)),
    )
    need("total_variance", "a number from 0 on", lambda v: _number(v) and v >= 0)
    need("storage_fvu", "a number from 0 on", lambda v: _number(v) and v >= 0)


def find_store(path: Path, hook: str | None) -> Path:
    """The directory with the manifest: `path`, or a folder in it of one hook point."""
    if hook is not None and (path / hook / NAME).is_file():
        return path / hook
    if (path / NAME).is_file():
        found = read_json(path / NAME, _LIMIT).get("hook")
        if hook not in (None, found):
            raise ValueError(f"hook: the store in {path} is of {found!r}, not {hook!r}")
        return path
    inside = sorted(p.parent.name for p in path.glob(f"*/{NAME}"))
    if len(inside) == 1 and hook is None:
        return path / inside[0]
    if inside:
        raise ValueError(f"hook: choose one of {', '.join(inside)} in {path}, got {hook!r}")
    raise FileNotFoundError(f"path: there is no activation store in {path} (no {NAME})")

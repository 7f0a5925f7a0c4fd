"""Samples, one a line, each holding the hash of the line before: nothing is changed, dropped or moved unnoticed.

A chain that one keeps oneself proves order and completeness, not independence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparse_sae._io.files import FormatError, reading
from sparse_sae.audit.hashes import canonical, sha256


def link(samples: Iterable[Mapping[str, Any]], genesis: str) -> tuple[bytes, str]:
    """Lines of the samples, and the hash of the last one; the first line holds `genesis`.

    >>> lines, head = link([{"a": 1}, {"a": 2}], "0" * 64)
    >>> [sample["a"] for sample in unlink(lines, "0" * 64, head)]
    [1, 2]
    """
    previous, lines = genesis, []
    for number, sample in enumerate(samples):
        line = canonical({"number": number, "previous": previous, "sample": dict(sample)})
        lines.append(line + b"\n")
        previous = sha256(line)
    return b"".join(lines), previous


def unlink(content: bytes, genesis: str, head: str, path: Any = "samples.jsonl") -> list[dict[str, Any]]:
    """The samples of a chain.

    Raises:
        FormatError: names the first line that does not follow from the one before.
    """
    previous, samples = genesis, []
    for number, line in enumerate(content.split(b"\n")[:-1]):
        with reading(Path(path), f"a chain of samples: line {number + 1}"):
            entry = json.loads(line)
            if canonical(entry) != line or set(entry) != {"number", "previous", "sample"}:
                raise FormatError(f"{path}: line {number + 1} is not as it was written")
        if entry["previous"] != previous or entry["number"] != number:
            raise FormatError(f"{path}: line {number + 1} does not follow from the line before it")
        previous = sha256(line)
        samples.append(entry["sample"])
    if previous != head or not (content.endswith(b"\n") or not content):
        raise FormatError(f"{path}: ends after {len(samples)} samples with another hash than the manifest's")
    return samples

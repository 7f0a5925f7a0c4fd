"""Labelled texts, divided so that nothing of the sealed test is seen in development, and the seal itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae._io.atomic import write_json
from sparse_sae._io.files import FormatError, read_json
from sparse_sae.audit.hashes import sha256_of


@dataclass(frozen=True)
class Examples:
    """Texts with a label.

    Args:
        texts: n texts. labels: (n,) bool, True: what is to be detected.
        groups: names of texts that are not independent (of one template, one twin pair); by default each its own.
        sources: where each is from (a data set, an attack, a style), for leaving one source out.
        hard: which negatives are hard: alike in everything but the label.
        onsets: (n,) at which character of a text what makes it positive begins, -1 where that is not known; delays
            are measured from there.

    Raises:
        ValueError: lengths that differ, or one class only.

    >>> len(Examples(["yes", "no"], [True, False]))
    2
    """

    texts: Sequence[str]
    labels: Any
    groups: Sequence[str] = ()
    sources: Sequence[str] = ()
    hard: Any = None
    onsets: Any = None

    def __post_init__(self) -> None:
        n = len(self.texts)
        fill = {
            "labels": np.asarray(self.labels, bool),
            "groups": np.array([str(g) for g in self.groups] or [str(i) for i in range(n)]),
            "sources": np.array([str(s) for s in self.sources] or ["all"] * n),
            "hard": np.zeros(n, bool) if self.hard is None else np.asarray(self.hard, bool),
            "onsets": np.full(n, -1) if self.onsets is None else np.asarray(self.onsets, np.int64),
        }
        for name, value in fill.items():
            if value.shape != (n,):
                raise ValueError(f"{name}: shape {value.shape}, expected ({n},), one a text")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "texts", [str(text) for text in self.texts])
        if self.labels.all() or not self.labels.any():
            raise ValueError(f"labels: {int(self.labels.sum())} of {n} are positive, expected both classes")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: Array) -> Examples:
        """The texts of these numbers."""
        groups, sources = np.asarray(self.groups)[index], np.asarray(self.sources)[index]
        return Examples(
            self.take_texts(index),
            self.labels[index],
            groups.tolist(),
            sources.tolist(),
            self.hard[index],
            self.onsets[index],
        )

    def take_texts(self, index: Array) -> list[str]:
        """The texts alone of these numbers."""
        return [self.texts[i] for i in index.tolist()]

    @property
    def sha256(self) -> str:
        """SHA-256 of texts, labels, groups, sources and onsets."""
        columns = (self.labels, self.groups, self.sources, self.hard, self.onsets)
        return sha256_of([self.texts, *(np.asarray(c).tolist() for c in columns)])


@dataclass(frozen=True)
class Division:
    """Numbers of the texts for development and of those for the sealed test.

    Attributes:
        duplicates: pairs of texts (by number) that are equal but for case and space and were in different groups;
            their groups were joined, so that they are on one side.
    """

    development: Array
    test: Array
    duplicates: list[tuple[int, int]] = field(default_factory=list)


def divide(examples: Examples, seed: int = 0, test_share: float = 0.5) -> Division:
    """Divide by group at random; equal texts join their groups.

    A division that leaves a side with one class is drawn again, a hundred times at most: with few groups most are such.

    Raises:
        ValueError: a side has one class only, however it is divided.

    >>> e = Examples(["a", "b", "A ", "c", "d", "f"], [True, False, True, False, True, False])
    >>> divide(e).duplicates
    [(0, 2)]
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share: got {test_share}, expected a number between 0 and 1")
    names = list(dict.fromkeys(np.asarray(examples.groups).tolist()))
    joined = {name: name for name in names}

    def root(name: str) -> str:
        while joined[name] != name:
            name = joined[name]
        return name

    seen: dict[str, int] = {}
    duplicates = []
    for i, text in enumerate(examples.texts):
        first = seen.setdefault(re.sub(r"\s+", " ", text).strip().lower(), i)
        a, b = root(str(examples.groups[first])), root(str(examples.groups[i]))
        if a != b:
            duplicates.append((first, i))
            joined[b] = a
    of = np.array([root(str(group)) for group in examples.groups])
    roots = list(dict.fromkeys(of.tolist()))
    rng = np.random.default_rng(seed)
    for _ in range(100):
        chosen = {roots[i] for i in rng.permutation(len(roots))[: round(test_share * len(roots))]}
        in_test = np.array([group in chosen for group in of])
        sides = {"development": examples.labels[~in_test], "test": examples.labels[in_test]}
        short = [name for name, labels in sides.items() if labels.all() or not labels.any()]
        if not short:
            return Division(np.flatnonzero(~in_test), np.flatnonzero(in_test), duplicates)
    raise ValueError(f"{short[0]}: one class only after dividing {len(roots)} groups; more groups are needed")


class SealBroken(ValueError):
    """The sealed test was read before, or under another policy."""


class Seal:
    """A file that remembers under which policy a test set is read, and how often.

    A test that chose something is no test any more. The file is written before the first result, so that a policy
    cannot follow from its results unnoticed.

    Args:
        path: where the seal is kept. policy: SHA-256 of the policy.

    Raises:
        SealBroken: the file is of another policy. FormatError: it is no seal.
    """

    _FORMAT = "sparse_sae.audit.seal"

    def __init__(self, path: str | Path, policy: str) -> None:
        self.path, self.policy = Path(path), policy
        self.reads: list[dict[str, str]] = []
        if not self.path.exists():
            return
        found = read_json(self.path)
        if found.get("format") != self._FORMAT or not isinstance(found.get("reads"), list):
            raise FormatError(f"{path}: expected a seal of an audit; give another --out")
        if found.get("policy") != policy:
            raise SealBroken(
                f"{path}: results exist under the policy {str(found.get('policy'))[:16]}…, this one is {policy[:16]}…. "
                "A policy is fixed before its results: give another --out, and report both"
            )
        self.reads = found["reads"]

    def read(self, what: str, test: str) -> int:
        """Note that the test set with this SHA-256 is read now; returns how often it was read, this time included."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.reads.append({"check": what, "test": test, "at": now})
        write_json(self.path, {"format": self._FORMAT, "policy": self.policy, "reads": self.reads})
        return sum(read["check"] == what and read["test"] == test for read in self.reads)

"""Codes of a whole set on the same tokens: what labels, expected weights and neighbours are computed from."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from sparse_sae._arguments import whole
from sparse_sae._io.atomic import atomic_write
from sparse_sae.circuits.dictionaries import DictionarySet

if TYPE_CHECKING:
    from sparse_sae.lm.harvest.reader import ComputeDtype

_FORMAT, _VERSION = "sparse_sae set codes", 1
_COLUMNS = ("tokens", "positions", "documents")


@dataclass(frozen=True)
class SetCodes:
    """Codes of several dictionaries on n tokens; rows of first positions are empty, as no SAE is trained on them.

    Attributes:
        model_name: the model.
        codes: hook point written -> (n, d_sae) CSR.
        tokens, positions, documents: (n,) int32 token, position in its sequence, number of its text.
    """

    model_name: str
    codes: Mapping[str, csr_array]
    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    documents: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"<SetCodes of {self.model_name!r}: {len(self)} tokens, {len(self.codes)} dictionaries>"

    def of(self, hook: str) -> csr_array:
        """The codes of the dictionary that writes a hook point.

        Raises:
            ValueError: there are none.
        """
        if hook not in self.codes:
            raise ValueError(f"codes: none of {hook!r}, expected one of {', '.join(self.codes)}")
        return self.codes[hook]

    def save(self, path: str | Path) -> None:
        """Write one `.npz` file, whole or not at all; nothing in it is pickled."""
        head = {"format": _FORMAT, "version": _VERSION, "model": self.model_name, "hooks": list(self.codes)}
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _COLUMNS}
        for number, codes in enumerate(self.codes.values()):
            arrays |= {f"{name}_{number}": getattr(codes, name) for name in ("data", "indices", "indptr")}
            arrays[f"d_sae_{number}"] = np.array(codes.shape[1])
        arrays["json"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
        with atomic_write(path) as file:
            np.savez(file, **arrays)

    @staticmethod
    def load(path: str | Path) -> SetCodes:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no file there. ValueError: another kind of file, or a damaged one.
        """
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            head = json.loads(arrays["json"].tobytes())
            if head["format"] != _FORMAT or head["version"] != _VERSION:
                raise ValueError(f"format {head['format']!r}, version {head['version']!r}")
            n = len(arrays["tokens"])
            codes = {}
            for number, hook in enumerate(head["hooks"]):
                parts = tuple(arrays[f"{name}_{number}"] for name in ("data", "indices", "indptr"))
                found = csr_array(parts, shape=(n, int(arrays[f"d_sae_{number}"])))
                found.check_format(full_check=True)
                codes[hook] = found
            columns = [arrays[name].astype(np.int32) for name in _COLUMNS]
            if any(len(column) != n for column in columns):
                raise ValueError("columns of different lengths")
            return SetCodes(str(head["model"]), codes, *columns)
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not a file of SetCodes.save, or damaged ({error})") from error


def encode_texts(
    model: Any,
    dictionaries: DictionarySet,
    texts: Iterable[str],
    *,
    max_tokens: int | None = None,
    context: int = 256,
    pack: bool = True,
    batch_tokens: int = 2048,
    compute_dtype: ComputeDtype = "auto",
    any_name: bool = False,
) -> SetCodes:
    """Run a model over texts and keep the codes of all dictionaries of a set; activations are not stored.

    A million tokens at k = 32 take about 260 MB a dictionary.

    Args:
        model: from `load_model`.
        dictionaries: the set.
        texts: strings; special tokens' names in them are plain text.
        max_tokens: stop after this many; None for all.
        context, pack, batch_tokens, compute_dtype: as for `capture`.
        any_name: accept a set made for a model of another name.

    >>> codes = encode_texts(lm, DictionarySet.load("set"), texts)  # doctest: +SKIP
    """
    from sparse_sae.lm.harvest.reader import Reader
    from sparse_sae.lm.harvest.sequences import windows

    dictionaries.check(model, any_name=any_name)
    limit = None if max_tokens is None else whole("max_tokens", max_tokens, least=1)
    hooks = list(dict.fromkeys(d.reads for d in dictionaries.values()))
    reader = Reader(model, hooks, context=context, compute_dtype=compute_dtype)
    parts: dict[str, list[csr_array]] = {hook: [] for hook in dictionaries}
    columns: dict[str, list[NDArray[np.int32]]] = {name: [] for name in _COLUMNS}
    total = 0
    for window in windows(
        texts,
        model.tokenizer,
        context=context,
        pack=pack,
        batch_tokens=batch_tokens,
        bos=reader.bos,
        parse_special=False,
    ):
        n = window.n_tokens if limit is None else min(window.n_tokens, limit - total)
        if n < 1:
            break
        total += n
        rows = reader.read(window, n)
        kept = window.column("positions")[:n] > 0
        for name, column in columns.items():
            column.append(window.column(name)[:n])  # type: ignore[arg-type]
        for hook, d in dictionaries.items():
            parts[hook].append(_with_gaps(d.sae.encode(rows[d.reads][kept]), kept))
    if not total:
        raise ValueError("texts: there are none, or all are empty")
    codes = {hook: csr_array(vstack(blocks, format="csr")) for hook, blocks in parts.items()}
    return SetCodes(dictionaries.model_name, codes, *(np.concatenate(columns[name]) for name in _COLUMNS))


def _with_gaps(codes: csr_array, kept: NDArray[np.bool_]) -> csr_array:
    """The same rows with empty ones where `kept` is false."""
    lengths = np.zeros(len(kept), np.int64)
    lengths[kept] = np.diff(codes.indptr)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return csr_array((codes.data, codes.indices, indptr), shape=(len(kept), codes.shape[1]))

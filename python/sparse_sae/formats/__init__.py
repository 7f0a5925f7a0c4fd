"""Pretrained files: one reader (and writer, where useful) a format; docs/formats.md has the table.

Each module has NAME, EXPECTS (what its files are called, for messages), `recognise(path)`, which looks at names and
headers only, and `read(path)`; those that are written too have `write(sae, path)`.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Literal, TypeAlias, get_args

from sparse_sae._arguments import one_of
from sparse_sae._io.files import FormatError
from sparse_sae.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    openai,
    saelens,
    sparsify,
)
from sparse_sae.formats._files import contents, peek_torch
from sparse_sae.sae import SAE

__all__ = ["FORMATS", "WRITERS", "Format", "Written", "load", "save"]

# For editors and type checkers, which do not see the table below; the two are held equal.
Written: TypeAlias = Literal["saelens", "sparsify", "dictionary_learning"]
Format: TypeAlias = Literal[
    "saelens", "gemma_scope", "llama_scope", "sparsify", "dictionary_learning", "openai", "circuit_tracer"
]

FORMATS: dict[str, ModuleType] = {
    module.NAME: module
    for module in (saelens, gemma_scope, llama_scope, sparsify, dictionary_learning, openai, circuit_tracer)
}
WRITERS: tuple[str, ...] = get_args(Written)


def load(path: str | Path, format: Format | None = None) -> SAE:
    """Open a saved SAE, whatever wrote it.

    Weights are mapped into memory where the file has them a latent a row, as SAEs here have (docs/formats.md says
    which are copied). Nothing is unpickled; .pt files go through torch's weights-only loader and need
    `sparse-sae[lm]`.

    Args:
        path: what `SAE.save` wrote, or a file or directory in another format; or "hf://owner/name[@revision][/path]",
            fetched from the Hugging Face Hub (`SAE.from_pretrained`).
        format: the format, one of `sparse_sae.formats.FORMATS`; None looks which it is.

    Raises:
        FileNotFoundError: nothing is there. ValueError: the files are not an SAE this package knows, could be of
            two formats, are truncated, or do not fit together; the message says what was found.
        NotImplementedError: a known format, but an SAE that computes something not offered here.

    >>> sorted(FORMATS)
    ['circuit_tracer', 'dictionary_learning', 'gemma_scope', 'llama_scope', 'openai', 'saelens', 'sparsify']
    """
    if isinstance(path, str) and path.startswith("hf://"):
        from sparse_sae.hub import from_uri

        return from_uri(path, format)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: {path} does not exist")
    if format is not None:
        one_of("format", format, FORMATS)
        return _read(format, path)
    known = [name for name, module in FORMATS.items() if module.recognise(path)]
    if len(known) > 1:
        raise ValueError(
            f"{path}: {contents(path)}, which could be {' or '.join(known)}; say which: load(path, format={known[0]!r})"
        )
    if not known:
        expected = "\n".join(f"  {module.EXPECTS}" for module in FORMATS.values())
        inside = ", ".join(sorted(peek_torch(path))[:20]) if path.is_file() else ""
        found = contents(path) + (f" with the names {inside}" if inside else "")
        raise ValueError(f"{path}: no SAE that is known here: found {found}; expected one of\n{expected}")
    return _read(known[0], path)


def _read(name: str, path: Path) -> SAE:
    """Open a file by its format; whatever malformed content makes a reader raise becomes one error."""
    try:
        sae: SAE = FORMATS[name].read(path)
    except (TypeError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise FormatError(
            f"{path}: not what {name} writes ({reason}); the file is damaged or foreign"
        ) from None
    return sae


def save(sae: SAE, path: str | Path, format: Written = "saelens") -> None:
    """Write an SAE, whole or not at all; see `SAE.save`."""
    one_of("format", format, WRITERS)
    FORMATS[format].write(sae, Path(path))

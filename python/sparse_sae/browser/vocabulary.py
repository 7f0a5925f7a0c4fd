"""Texts of token ids, as a page shows them: pieces that are no whole characters become their bytes."""

from __future__ import annotations

from functools import cache
from typing import Any


def load_tokenizer(path: str) -> Any:
    """The tokenizer in a directory as transformers saves it (or a Hugging Face id).

    Raises:
        ImportError: transformers is not installed. ValueError: no tokenizer there.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ImportError(
            "a tokenizer needs transformers, which is not installed: pip install 'sparse-sae[lm]'"
        ) from None
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"tokenizer: none can be loaded from {path!r} ({reason})") from None


def texts_of(tokenizer: Any) -> list[str]:
    """The text of every token id; a piece that is not valid UTF-8 by itself is written ⟨e2 80⟩.

    >>> from types import SimpleNamespace
    >>> pieces = ["a", "Ġb", "âĢ"]
    >>> fake = SimpleNamespace(
    ...     convert_ids_to_tokens=lambda ids: [pieces[i] for i in ids],
    ...     batch_decode=lambda rows, **_: [["a", " b", "\\ufffd"][i] for (i,) in rows],
    ...     __len__=lambda: 3,
    ... )
    >>> class Fake(SimpleNamespace):
    ...     __len__ = lambda self: 3
    >>> texts_of(Fake(**vars(fake)))
    ['a', ' b', '⟨e2 80⟩']
    """
    ids = list(range(len(tokenizer)))
    pieces = tokenizer.convert_ids_to_tokens(ids)
    decoded = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    return [_text(str(piece), text) for piece, text in zip(pieces, decoded, strict=True)]


def _text(piece: str, decoded: str) -> str:
    if piece.startswith("▁"):  # SentencePiece's space, which decoding drops at the beginning of a text
        return piece.replace("▁", " ")
    if "\ufffd" not in decoded:
        return decoded
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return f"⟨{piece[3:5].lower()}⟩"
    known = _byte_of()
    if all(c in known for c in piece):
        return f"⟨{bytes(known[c] for c in piece).hex(' ')}⟩"
    return decoded


@cache
def _byte_of() -> dict[str, int]:
    """The character by which byte-level BPE (GPT-2) writes each byte: itself if it prints, else one from 256 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}

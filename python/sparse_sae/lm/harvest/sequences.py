"""From texts to rectangles of tokens: tokenise, pack or split, put sequences of like length together."""

from __future__ import annotations

import hashlib
import operator
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Text = str | Sequence[int]

_TEXTS_AT_ONCE = 64  # a fast tokenizer works on several in parallel
_BUCKETED = 8  # batches whose sequences are sorted by length together


@dataclass(frozen=True)
class Piece:
    """Tokens that the model reads as one sequence, and the number of the text each is from."""

    tokens: Ints
    documents: Ints


@dataclass(frozen=True)
class Batch:
    """Sequences of about one length in a rectangle, padded on the right.

    Padding needs no mask: a causal model's earlier positions never see it. Whoever reads activations leaves
    `mask == False` out.

    Attributes:
        ids: (batch, position) int32, 0 where padded.
        mask: (batch, position) bool, true for tokens.
        which: (batch,) numbers of the sequences in their window.
    """

    ids: Ints
    mask: NDArray[np.bool_]
    which: list[int]


def windows(
    texts: Iterable[Text],
    tokenizer: Any,
    *,
    context: int,
    pack: bool,
    batch_tokens: int,
    bos: int | None,
    parse_special: bool | None = None,
) -> Iterator[Window]:
    """All texts as sequences, some at a time; the same ones for the same texts.

    Args:
        texts: strings, or token ids taken as they are.
        tokenizer: a transformers tokenizer; None if all texts are token ids.
        context: longest sequence.
        pack: texts one after another, divided by the end-of-text token, cut into full contexts; if not, every
            text begins a sequence of its own, and long ones are split.
        batch_tokens: positions of a batch, padding included.
        bos: token to begin each sequence with, or None.
        parse_special: whether a special token's name inside a text is that token; None: it is, with a warning.

    Raises:
        TypeError: texts is one text, or a text is neither a string nor whole numbers.
        ValueError: batch_tokens below 1, or strings without a tokenizer.
    """
    if isinstance(texts, str | bytes | Path):
        raise TypeError(
            f"texts: got one {type(texts).__name__}, expected several texts; give [text] for a single one"
        )
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens: got {batch_tokens}, expected at least 1")
    return _windows(texts, tokenizer, context, pack, batch_tokens, bos, parse_special)


def _windows(
    texts: Iterable[Text],
    tokenizer: Any,
    context: int,
    pack: bool,
    batch_tokens: int,
    bos: int | None,
    parse_special: bool | None,
) -> Iterator[Window]:
    pieces = _packed if pack else _separate
    stream = pieces(
        _tokenized(texts, tokenizer, parse_special), context, bos, getattr(tokenizer, "eos_token_id", None)
    )
    # full contexts need no bucketing
    size = (max(1, batch_tokens // context) * context) if pack else _BUCKETED * batch_tokens
    window: list[Piece] = []
    waiting = 0
    for piece in stream:
        window.append(piece)
        waiting += len(piece.tokens)
        if waiting >= size:
            yield Window(window, batch_tokens)
            window, waiting = [], 0
    if window:
        yield Window(window, batch_tokens)


class Window:
    """Some sequences, in the order of their texts; read in batches of about equal lengths.

    Attributes:
        pieces: the sequences.
        n_tokens: tokens in all of them.
    """

    def __init__(self, pieces: list[Piece], batch_tokens: int) -> None:
        self.pieces = pieces
        self.n_tokens = sum(len(piece.tokens) for piece in pieces)
        self._batch_tokens = batch_tokens

    def batches(self) -> Iterator[Batch]:
        """Rectangles of at most `batch_tokens` positions, longest sequences first."""
        order = sorted(range(len(self.pieces)), key=lambda i: -len(self.pieces[i].tokens))
        while order:
            count = max(1, self._batch_tokens // len(self.pieces[order[0]].tokens))
            yield _rectangle(self.pieces, order[:count])
            order = order[count:]

    def column(self, name: Literal["tokens", "documents", "positions"]) -> Ints:
        """(n_tokens,) int32: tokens, numbers of texts, or positions in the sequences."""
        if name == "positions":
            return np.concatenate([np.arange(len(piece.tokens), dtype=np.int32) for piece in self.pieces])
        return np.concatenate([getattr(piece, name) for piece in self.pieces])

    def digest(self, before: str) -> str:
        """A checksum of everything up to this window, given that of the one before."""
        ends = np.cumsum([len(piece.tokens) for piece in self.pieces])
        content = self.column("tokens").tobytes() + ends.tobytes()
        return hashlib.sha256(before.encode() + content).hexdigest()


def _tokenized(texts: Iterable[Text], tokenizer: Any, parse_special: bool | None) -> Iterator[list[int]]:
    iterator = iter(texts)
    special = _special_tokens(tokenizer) if parse_special is None else ()
    while some := list(islice(iterator, _TEXTS_AT_ONCE)):
        strings = [text for text in some if isinstance(text, str)]
        if strings and tokenizer is None:
            raise ValueError("texts: strings need a tokenizer; give a model from load_model() or token ids")
        found = next((token for token in special if any(token in text for text in strings)), None)
        if found is not None:
            special = ()
            warnings.warn(
                f"texts: {found!r} occurs in a text and is read as that special token. parse_special=False reads it "
                "as plain text; parse_special=True says that it is meant (texts in a chat format)",
                UserWarning,
                stacklevel=2,
            )
        options = {"split_special_tokens": True} if parse_special is False else {}
        encoded = iter(
            tokenizer(strings, add_special_tokens=False, **options)["input_ids"] if strings else ()
        )
        for text in some:
            yield list(next(encoded)) if isinstance(text, str) else _whole(text)


def _special_tokens(tokenizer: Any) -> tuple[str, ...]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return tuple(str(token) for token in added.values() if token.special)


def _whole(text: Sequence[int]) -> list[int]:
    try:
        return [operator.index(token) for token in text]
    except TypeError:
        raise TypeError(
            f"texts: got a {type(text).__name__} that does not hold whole numbers, expected a string or token ids"
        ) from None


def _packed(
    documents: Iterator[list[int]], context: int, bos: int | None, eos: int | None
) -> Iterator[Piece]:
    head = [] if bos is None else [bos]
    room = context - len(head)
    tokens: list[int] = []
    numbers: list[int] = []
    for number, document in enumerate(documents):
        if not document:
            continue
        added = document if eos is None else [*document, eos]
        tokens += added
        numbers += [number] * len(added)
        full = len(tokens) // room * room
        for at in range(0, full, room):
            yield _piece(head, tokens[at : at + room], numbers[at : at + room])
        tokens, numbers = tokens[full:], numbers[full:]
    if tokens:
        yield _piece(head, tokens, numbers)


def _separate(
    documents: Iterator[list[int]], context: int, bos: int | None, _eos: int | None
) -> Iterator[Piece]:
    head = [] if bos is None else [bos]
    room = context - len(head)
    for number, document in enumerate(documents):
        for at in range(0, len(document), room):
            tokens = document[at : at + room]
            yield _piece(head, tokens, [number] * len(tokens))


def _piece(head: list[int], tokens: list[int], documents: list[int]) -> Piece:
    numbers = documents[:1] * len(head) + documents
    return Piece(np.array(head + tokens, dtype=np.int32), np.array(numbers, dtype=np.int32))


def _rectangle(pieces: Sequence[Piece], which: list[int]) -> Batch:
    lengths = [len(pieces[i].tokens) for i in which]
    ids = np.zeros((len(which), max(lengths)), dtype=np.int32)
    for row, i in enumerate(which):
        ids[row, : lengths[row]] = pieces[i].tokens
    mask = np.arange(ids.shape[1]) < np.array(lengths)[:, None]
    return Batch(ids, mask, which)

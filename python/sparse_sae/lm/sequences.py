"""From texts to rectangles of tokens: tokenise, pack or split, put sequences of like length together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Text = str | Sequence[int]

_TEXTS_AT_ONCE = 64  # a fast tokenizer works on several in parallel
_WINDOW = 16  # batches whose sequences are sorted by length together


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
        documents: (batch, position) int32.
    """

    ids: Ints
    mask: NDArray[np.bool_]
    documents: Ints

    def digest(self, before: str) -> str:
        """A checksum of all batches up to this one, given that of the one before."""
        return hashlib.sha256(before.encode() + self.ids.tobytes() + self.mask.tobytes()).hexdigest()


def batches(
    texts: Iterable[Text], tokenizer: Any, *, context: int, pack: bool, batch_tokens: int, bos: int | None
) -> Iterator[Batch]:
    """Batches of at most `batch_tokens` positions (or one sequence), the same ones for the same texts.

    Args:
        texts: strings, or token ids taken as they are.
        tokenizer: a transformers tokenizer; None if all texts are token ids.
        context: longest sequence.
        pack: texts one after another, divided by the end-of-text token, cut into full contexts; if not, every
            text begins a sequence of its own, and long ones are split.
        batch_tokens: positions of a batch, padding included.
        bos: token to begin each sequence with, or None.
    """
    pieces = _packed if pack else _separate
    stream = pieces(_tokenized(texts, tokenizer), context, bos, getattr(tokenizer, "eos_token_id", None))
    while True:
        window: list[Piece] = []
        size = 0
        for piece in stream:
            window.append(piece)
            size += len(piece.tokens)
            if size >= _WINDOW * batch_tokens:
                break
        if not window:
            return
        window.sort(key=lambda piece: -len(piece.tokens))
        while window:
            count = max(1, batch_tokens // len(window[0].tokens))
            yield _rectangle(window[:count])
            window = window[count:]


def _tokenized(texts: Iterable[Text], tokenizer: Any) -> Iterator[list[int]]:
    iterator = iter(texts)
    while some := list(islice(iterator, _TEXTS_AT_ONCE)):
        strings = [text for text in some if isinstance(text, str)]
        if strings and tokenizer is None:
            raise ValueError("texts: strings need a tokenizer; give a model from load_model() or token ids")
        encoded = iter(tokenizer(strings, add_special_tokens=False)["input_ids"] if strings else ())
        for text in some:
            yield list(next(encoded)) if isinstance(text, str) else [int(token) for token in text]


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


def _rectangle(pieces: Sequence[Piece]) -> Batch:
    shape = (len(pieces), max(len(piece.tokens) for piece in pieces))
    ids, documents = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    mask = np.zeros(shape, dtype=bool)
    for row, piece in enumerate(pieces):
        n = len(piece.tokens)
        ids[row, :n], documents[row, :n], mask[row, :n] = piece.tokens, piece.documents, True
    return Batch(ids, mask, documents)

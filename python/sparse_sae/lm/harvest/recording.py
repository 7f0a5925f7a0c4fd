"""Harvest activations: run a model over texts and keep on disk what passes its hook points."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from sparse_sae.data.store import ActivationStore, StoreWriter
from sparse_sae.data.store.format import Dtype
from sparse_sae.lm.harvest.reader import ComputeDtype, Reader
from sparse_sae.lm.harvest.sequences import Text, windows
from sparse_sae.lm.model.engine import Engine
from sparse_sae.lm.model.loading import LanguageModel


@dataclass(frozen=True)
class CaptureProgress:
    """How far a capture is.

    Attributes:
        tokens: tokens read so far, those of an earlier run included.
        max_tokens: where it will stop, or None: at the end of the texts.
        tokens_per_second: speed of this run.
    """

    tokens: int
    max_tokens: int | None
    tokens_per_second: float


@overload
def capture(  # type: ignore[overload-overlap]  # a str is a sequence of str too
    model: LanguageModel | Engine,
    texts: Iterable[Text],
    hooks: str,
    store: str | Path,
    *,
    max_tokens: int | None = ...,
    context: int = ...,
    pack: bool = ...,
    batch_tokens: int = ...,
    dtype: Dtype = ...,
    compute_dtype: ComputeDtype = ...,
    shard_bytes: int = ...,
    parse_special: bool | None = ...,
    progress: Callable[[CaptureProgress], None] | None = ...,
) -> ActivationStore: ...
@overload
def capture(
    model: LanguageModel | Engine,
    texts: Iterable[Text],
    hooks: Sequence[str],
    store: str | Path,
    *,
    max_tokens: int | None = ...,
    context: int = ...,
    pack: bool = ...,
    batch_tokens: int = ...,
    dtype: Dtype = ...,
    compute_dtype: ComputeDtype = ...,
    shard_bytes: int = ...,
    parse_special: bool | None = ...,
    progress: Callable[[CaptureProgress], None] | None = ...,
) -> dict[str, ActivationStore]: ...
def capture(
    model: LanguageModel | Engine,
    texts: Iterable[Text],
    hooks: str | Sequence[str],
    store: str | Path,
    *,
    max_tokens: int | None = None,
    context: int = 256,
    pack: bool = True,
    batch_tokens: int = 2048,
    dtype: Dtype = "float16",
    compute_dtype: ComputeDtype = "auto",
    shard_bytes: int = 32 << 20,
    parse_special: bool | None = None,
    progress: Callable[[CaptureProgress], None] | None = None,
) -> ActivationStore | dict[str, ActivationStore]:
    """Write the activations at one or several hook points to disk, in one pass over the texts.

    Called again with the same arguments, it goes on where it was interrupted, however that happened, and
    returns at once when everything is there; with a larger `max_tokens` it adds to the store. Layers above
    the last hook point and the logits are not computed.

    Args:
        model: from `load_model`, or any `Engine`.
        texts: strings (or lists of token ids), in the same order each time.
        hooks: a hook point (its store is then `store` itself), or several (each has a folder of its name).
        store: directory.
        max_tokens: store exactly this many tokens, first positions of sequences included, or all if the texts
            have fewer; None reads all texts. A store that has more already is returned as it is.
        context: longest sequence in tokens.
        pack: put texts one after another into full contexts, divided by the end-of-text token: no padding,
            for training. False: a text has sequences of its own and nothing else in view: for labelled texts.
        batch_tokens: positions of one forward pass.
        dtype: how rows are stored: "float32", "float16", "bfloat16" or "int8" (with a scale per row). The
            cost is in `statistics["storage_fvu"]`.
        compute_dtype: "float32" or "bfloat16" for the forward pass; "auto" measures which is faster here.
        shard_bytes: size of a shard; what an interrupted run loses at most.
        parse_special: whether the name of a special token inside a text (<|endoftext|>, <|im_start|>) is that
            token. True: it is, as for texts in a chat format; False: it is plain text like any other, as for texts
            of strangers; None: it is, as transformers has it, and a `UserWarning` says so if it occurs.
        progress: called after every pass with a `CaptureProgress`.

    Returns:
        An `ActivationStore`, or a dict of them if `hooks` is a sequence. First positions and massive
        activations are in the store, marked, counted and left out of what it yields; padding is not stored.
        Rows are in the order of the texts.

    Raises:
        TypeError: model is not a `LanguageModel` or an `Engine`, or texts is a single string.
        ValueError: no texts, a context beyond the model's, an unknown hook point, or a store of other texts
            or settings.

    >>> store = capture(model, texts, "blocks.15.hook_resid_post", "acts")  # doctest: +SKIP
    >>> store.excluded  # doctest: +SKIP
    {'first': 236, 'padding': 0, 'massive': 11}
    """
    names = [hooks] if isinstance(hooks, str) else list(hooks)
    paths = {name: Path(store) if isinstance(hooks, str) else Path(store) / name for name in names}
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens: got {max_tokens}, expected at least 1")
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes: got {shard_bytes}, expected at least 1")
    if names and compute_dtype == "auto":
        compute_dtype = _earlier_compute_dtype(paths[names[0]])
    reader = Reader(model, names, context=context, compute_dtype=compute_dtype)
    source = windows(
        texts,
        model.tokenizer,
        context=context,
        pack=pack,
        batch_tokens=batch_tokens,
        bos=reader.bos,
        parse_special=parse_special,
    )
    settings = {
        "context": context,
        "pack": pack,
        "batch_tokens": batch_tokens,
        "bos": reader.bos,
        "compute_dtype": reader.compute_dtype,
        "progress": "tokens",
    }
    # Shards of all hook points end with the same batches, so they are flushed below and not by the writers.
    writers = [
        StoreWriter(
            paths[name],
            reader.widths[name],
            dtype,
            model=model.name,
            hook=name,
            metadata=settings,
            shard_bytes=1 << 62,
        )
        for name in names
    ]
    done = min(writer.progress for writer in writers)
    for writer in writers:
        writer.truncate(done)  # a kill may have come between two hook points' shards
    if {(writer.progress, writer.state) for writer in writers} != {(done, writers[0].state)}:
        raise ValueError(f"store: the hook points in {store} do not go together; delete it and capture again")

    total, digest, added = 0, "", 0
    began = time.perf_counter()
    for window in source:
        begin, total = total, total + window.n_tokens
        digest = window.digest(digest)
        if begin < done <= total and digest != writers[0].state:
            raise ValueError(f"texts: the store in {store} is of other texts; give another directory")
        if total <= done:
            continue
        if max_tokens is not None and max(begin, done) >= max_tokens:
            break
        # a store that ended inside this window goes on there
        written = max(0, done - begin)
        end = window.n_tokens if max_tokens is None else min(window.n_tokens, max_tokens - begin)
        rows = reader.read(window, end)
        columns = [window.column(name)[written:end] for name in ("tokens", "positions", "documents")]
        for name, writer in zip(names, writers, strict=True):
            writer.append(rows[name][written:], *columns, progress=begin + end, state=digest)
        added += end - written
        if max(writer.pending_bytes for writer in writers) >= shard_bytes:
            for writer in writers:
                writer.flush()
        if progress is not None:
            progress(CaptureProgress(writers[0].count, max_tokens, added / (time.perf_counter() - began)))
    if total < done:
        raise ValueError(f"texts: the store in {store} is of more texts than these; give another directory")
    if not writers[0].count:
        raise ValueError("texts: there are none, or all are empty")
    for writer in writers:
        if added or not writer.complete:
            writer.finish()
    stores = {name: ActivationStore(path) for name, path in paths.items()}
    return stores[hooks] if isinstance(hooks, str) else stores


def _earlier_compute_dtype(path: Path) -> ComputeDtype:
    """What was measured when this store was begun, so that it goes on in the same dtype."""
    manifest = path / "manifest.json"
    if not manifest.is_file():
        return "auto"
    found: ComputeDtype = json.loads(manifest.read_text()).get("metadata", {}).get("compute_dtype", "auto")
    return found  # checked by the reader, as the caller's would be

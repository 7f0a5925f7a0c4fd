"""Build the browser's file from an SAE and a store: one pass over the activations, bounded memory, resumable."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae._io.atomic import atomic_write
from sparse_sae.browser import logits, schema
from sparse_sae.browser.contexts import Stream
from sparse_sae.browser.detection import Labels
from sparse_sae.browser.neighbours import by_coactivation, by_direction, layout, lengths
from sparse_sae.browser.rows import Writer
from sparse_sae.browser.spill import Spill, encode_to
from sparse_sae.browser.workplace import user_rows, workplace
from sparse_sae.data.provenance import mismatches
from sparse_sae.weights import what_encodes

GROUP_ENTRIES = 200_000
Progress = Callable[[str, int, int], None]


def build(
    sae: Any,
    store: Any,
    path: str | Path,
    *,
    model: Any = None,
    vocabulary: Sequence[str] | None = None,
    others: Mapping[str, Any] | None = None,
    labels: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write everything a page shows of an SAE's latents into one SQLite file, whole or not at all.

    A build that was stopped goes on where it was when it is called again with the same arguments (its codes are kept
    in `.NAME.building` beside the file). Where the file exists and is of the same SAE and store, the user's labels and
    lists are carried over.

    Args:
        sae: an SAE or a transcoder (its input is encoded).
        store: an `ActivationStore` with tokens; rows it leaves out are not encoded, but shown around others.
        path: the file.
        model: a `LanguageModel`, for the logits that latents promote and suppress, and for the texts of tokens.
        vocabulary: text of each token id, where there is no model; with neither, tokens are shown as numbers.
        others: name -> another SAE of the same space, such as one of another seed: each latent's partner by `match`,
            and its mean cosine as `stability`.
        labels: name -> {"positive": [numbers of texts], "negative": […]}: how well each latent tells them apart.
        progress: called with the name of a stage, how much is done, and how much there is.

    Returns:
        path.

    Raises:
        ValueError: a store of another width, model or hook point, without rows or tokens; labels of unknown texts.
        NotImplementedError: a crosscoder, whose input is several stores.
        FileExistsError: `path` is something else, or a file of another SAE or store in which a user has written.
        BlockingIOError: another build of the same file is running.

    >>> build(sae, ActivationStore("activations"), "sae.db", model=load_model())  # doctest: +SKIP
    """
    path = Path(path)
    say = progress or (lambda stage, done, total: None)
    stream, numbers = _checked(sae, store)
    known = Labels(labels or {}, stream.documents)
    fingerprint = fingerprint_of(sae, store)
    kept = user_rows(path, fingerprint)
    # What is written besides the codes may differ from call to call; only they are resumed.
    with workplace(path, fingerprint) as work:
        spill = Spill(work, sae.d_sae)
        encode_to(spill, sae, store, numbers, lambda done, total: say("encoding", done, total))
        database = work / "browser.db"
        database.unlink(missing_ok=True)
        connection = schema.create(database)
        try:
            connection.execute("BEGIN")
            _fill(
                connection,
                sae,
                store,
                stream,
                spill,
                known,
                model,
                vocabulary,
                others or {},
                fingerprint,
                say,
            )
            for table, rows in kept.items():
                for row in rows:
                    connection.execute(f"INSERT INTO {table} VALUES({','.join('?' * len(row))})", row)
            connection.execute("COMMIT")
            connection.execute("ANALYZE")
        finally:
            connection.close()
        say("writing", 0, 1)
        with atomic_write(path) as file, database.open("rb") as source:
            shutil.copyfileobj(source, file, 1 << 20)
    shutil.rmtree(work)
    return path


def fingerprint_of(sae: Any, store: Any) -> str:
    """What identifies an SAE and a selection of rows: their contents, not their names."""
    described = [fingerprint_of_sae(sae), [s["crc32"] for s in store.manifest["shards"]], len(store)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def fingerprint_of_sae(sae: Any) -> str:
    """What identifies an SAE: everything that decides its codes."""
    arrays, settings = what_encodes(sae)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _checked(sae: Any, store: Any) -> tuple[Stream, Array]:
    """The store's tokens, and where in them the rows lie that are encoded; or an error that says what does not fit."""
    if sae.kind == "crosscoder":
        raise NotImplementedError(
            "sae: a crosscoder reads several stores side by side; browse SAEs and transcoders"
        )
    if store.d_in != sae.d_in:
        raise ValueError(
            f"store: its rows are {store.d_in} wide, the SAE reads {sae.d_in}: a store of another hook point or model"
        )
    if differences := mismatches(sae.metadata, store):
        raise ValueError(f"store: the SAE is of {'; of '.join(differences)}; its latents mean nothing there")
    whole = store.select(exclude=())
    if not len(store):
        raise ValueError("store: it has no usable rows")
    tokens, positions = whole.tokens, whole.positions
    if len(tokens) >= 1 << 31:
        raise NotImplementedError(f"store: {len(tokens)} tokens; a browser file holds fewer than {1 << 31}")
    if len(tokens) > 1 and not (tokens != tokens[0]).any():
        raise ValueError(
            f"store: every row has token {int(tokens[0])}: it was written without tokens to show"
        )
    if tokens.min() < 0:
        raise ValueError(
            f"store: token {int(tokens.min())}, expected numbers from 0 on: it was written without tokens"
        )
    documents = whole.documents
    new = (np.diff(positions) != 1) | (np.diff(documents) != 0)
    starts = np.concatenate([[0], np.flatnonzero(new) + 1])
    return Stream(tokens, starts, documents), np.searchsorted(whole.numbers, store.numbers)


def _fill(
    connection: sqlite3.Connection,
    sae: Any,
    store: Any,
    stream: Stream,
    spill: Spill,
    known: Labels,
    model: Any,
    vocabulary: Sequence[str] | None,
    others: Mapping[str, Any],
    fingerprint: str,
    say: Progress,
) -> None:
    from sparse_sae.browser.vocabulary import texts_of

    if model is not None:
        vocabulary = texts_of(model.tokenizer)
    decoder = sae.rows["W_dec"].astype(np.float32, copy=False)
    norms = lengths(decoder)
    say("neighbours", 0, 3)
    nearest = by_direction(decoder)
    say("neighbours", 1, 3)
    together = by_coactivation(spill)
    say("neighbours", 2, 3)
    places, map_quality = layout(nearest, decoder)
    matches, stability, compared = _matches(sae, others)
    writer = Writer(connection, stream, vocabulary, len(store), known)
    say("latents", 0, sae.d_sae)
    for begin, end, entries in spill.groups(GROUP_ENTRIES):
        promoted = logits.effects(model, sae, begin, end) if model is not None else [None] * (end - begin)
        writer.latents(
            begin,
            entries,
            norms[begin:end],
            places[begin:end],
            nearest,
            together,
            promoted,
            matches[begin:end],
            None if stability is None else stability[begin:end],
        )
        say("latents", end, sae.d_sae)
    writer.tokens()
    meta = {
        "fingerprint": fingerprint,
        "sae_fingerprint": fingerprint_of_sae(sae),
        "model_name": store.model,
        "hook_name": store.hook,
        "d_sae": sae.d_sae,
        "d_in": sae.d_in,
        "kind": sae.kind,
        "architecture": sae.activation.config(),
        "rows": len(store),
        "stream": len(stream.tokens),
        "texts": len(np.unique(stream.documents)),
        "excluded": store.excluded,
        "coactivation_rows": together.rows,
        "map": map_quality,
        "compared": compared,
        "auroc_chance": known.chance,
        "logits": model is not None,
        "text": vocabulary is not None,
        "metadata": _plain(sae.metadata),
        "dead": int((spill.counts == 0).sum()),
        "l0": float(spill.counts.sum() / len(store)),
    }
    connection.executemany(
        "INSERT INTO meta VALUES(?, ?)", [(k, json.dumps(v, allow_nan=False)) for k, v in meta.items()]
    )


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in metadata.items() if isinstance(v, str | int | float | bool)}


def _matches(
    sae: Any, others: Mapping[str, Any]
) -> tuple[list[dict[str, list[float]]], Array | None, dict[str, Any]]:
    """For each latent, name -> [partner, cosine]; the mean cosine; and each comparison's mean and chance level."""
    from sparse_sae.match import match

    found: list[dict[str, list[float]]] = [{} for _ in range(sae.d_sae)]
    if not others:
        return found, None, {}
    total, compared = np.zeros(sae.d_sae), {}
    for name, other in others.items():
        result = match(sae, other)
        total[result.pairs[:, 0]] += result.scores
        for (own, partner), score in zip(result.pairs.tolist(), result.scores.tolist(), strict=True):
            found[own][name] = [partner, round(score, 4)]
        chance = max((c.mcc for c in result.chance.values()), key=lambda level: level.mean)
        compared[name] = {
            "mcc": result.mcc,
            "chance": chance.mean,
            "corrected": chance.correct(result.mcc),
            "above_0.9": result.above(0.9),
            "pairs": len(result.pairs),
            "d_sae": int(other.d_sae),
            "unmatched": len(result.unmatched_a),
        }
    return found, total / len(others), compared

"""Write the latents of a build, group by group, and at the end the token stream and its vocabulary."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae.browser import schema
from sparse_sae.browser.contexts import Contexts, Stream, contexts, summarise
from sparse_sae.browser.detection import Labels, best
from sparse_sae.browser.labels import automatic
from sparse_sae.browser.neighbours import Nearest, Together
from sparse_sae.browser.spill import Entries

_NEAR = 5  # tokens on either side of a firing that search finds a latent by
_PANELS = (
    "id",
    "histogram",
    "intervals",
    "groups",
    "rows",
    "bounds",
    "peaks",
    "counts",
    "offsets",
    "activations",
    "nearest",
    "cosine",
    "together",
    "phi",
    "given",
    "base",
    "evidence",
    "logits",
    "matches",
    "auroc",
)


class Writer:
    """Rows of `latents`, `panels` and `search` from the entries of a group of latents.

    Args:
        connection: an open transaction on a new database.
        stream: the store's tokens. vocabulary: text of each token id, or None. n_rows: rows that were encoded.
        known: labels of texts.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        stream: Stream,
        vocabulary: Sequence[str] | None,
        n_rows: int,
        known: Labels,
    ) -> None:
        self._connection, self._stream, self._n_rows, self._known = connection, stream, n_rows, known
        size = max(int(stream.tokens.max()) + 1, len(vocabulary or ()))
        self._occurrences = np.bincount(stream.tokens, minlength=size)
        given = [_storable(text) for text in vocabulary or ()]
        self._texts = given + [f"⟨{i}⟩" for i in range(len(given), size)]

    def latents(
        self,
        begin: int,
        entries: Entries,
        norms: Array,
        places: Array,
        nearest: Nearest,
        together: Together,
        promoted: Sequence[dict[str, Any] | None],
        matches: Sequence[dict[str, Any]],
        stability: Array | None,
    ) -> None:
        """The latents from `begin` on, as many as there are norms."""
        m = len(norms)
        summary = summarise(entries, m)
        shown = contexts(entries, summary.maximum, self._stream, begin)
        labels = automatic(entries, summary.maximum, self._stream, self._occurrences, self._n_rows)
        areas = self._known.of(entries, m, self._stream) if self._known else {}
        bounds = np.searchsorted(shown.latent, np.arange(m + 1))
        ends = np.concatenate([[0], np.cumsum(shown.count)])
        rows, panels, search = [], [], []
        for i in range(m):
            latent, part = begin + i, slice(int(bounds[i]), int(bounds[i + 1]))
            inside = slice(int(ends[part.start]), int(ends[part.stop]))
            label = self._label(labels[i])
            auroc, name, each = best(areas, i)
            rows.append(
                (
                    latent,
                    int(summary.count[i]),
                    float(summary.count[i] / self._n_rows),
                    float(summary.maximum[i]),
                    float(summary.mean[i]),
                    float(norms[i]),
                    labels[i]["kind"],
                    label,
                    float(places[i, 0]),
                    float(places[i, 1]),
                    None if stability is None else float(stability[i]),
                    auroc,
                    name,
                )
            )
            near = {
                "histogram": summary.histogram[i],
                "intervals": summary.intervals[i],
                "groups": shown.group[part],
                "rows": shown.row[part],
                "peaks": shown.value[part],
                "counts": shown.count[part],
                "bounds": np.stack(
                    [shown.row[part] - shown.begin[part], shown.end[part] - shown.row[part]], 1
                ),
                "offsets": shown.offset[inside],
                "activations": shown.activation[inside],
                "nearest": nearest.latent[latent],
                "cosine": nearest.score[latent],
                "together": together.latent[latent],
                "phi": together.score[latent],
                "given": together.given[latent],
                "base": together.base[latent],
            }
            texts = (labels[i], promoted[i], matches[i], each)
            panels.append(
                (latent, *(schema.pack(name, near[name]) for name in _PANELS[1:16]), *map(json.dumps, texts))
            )
            if part.stop > part.start:
                search.append((latent, *self._words(shown, part), label))
        self._insert("latents", rows)
        self._insert("panels", panels)
        self._connection.executemany(
            "INSERT INTO search(rowid, peak, context, label) VALUES(?, ?, ?, ?)", search
        )

    def _insert(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            self._connection.executemany(f"INSERT INTO {table} VALUES({','.join('?' * len(rows[0]))})", rows)

    def _words(self, shown: Contexts, part: slice) -> tuple[str, str]:
        """The tokens on which the strongest contexts fire, and the words around them."""
        texts, tokens = self._texts, self._stream.tokens
        top = np.flatnonzero(shown.group[part] < 0) + part.start
        peaks = "\n".join(texts[t] for t in tokens[shown.row[top]].tolist())
        around = []
        for i in top.tolist():
            row = int(shown.row[i])
            low, high = max(int(shown.begin[i]), row - _NEAR), min(int(shown.end[i]), row + _NEAR + 1)
            around.append("".join(texts[t] for t in tokens[low:high].tolist()))
        return peaks, "\n".join(around)

    def _label(self, found: dict[str, Any]) -> str:
        words = ", ".join(f"“{self._texts[t].strip() or self._texts[t]}”" for t in found["tokens"])
        return {"on": words, "after": f"after {words}", "mixed": "mixed contexts", "dead": "never fires"}[
            found["kind"]
        ]

    def tokens(self) -> None:
        """The token stream and the vocabulary."""
        ids = self._stream.tokens.astype(np.int32)
        chunks = range(0, len(ids), schema.CHUNK)
        self._insert("tokens", [(i, ids[at : at + schema.CHUNK].tobytes()) for i, at in enumerate(chunks)])
        self._insert("vocabulary", list(enumerate(self._texts)))


def _storable(text: str) -> str:
    """SQLite holds UTF-8, in which there are no lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

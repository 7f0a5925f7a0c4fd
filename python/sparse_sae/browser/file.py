"""Read a browser file: lists, panels of a latent, contexts with their texts. What a page and a notebook show."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._arguments import one_of, whole
from sparse_sae._io.arrays import Array
from sparse_sae._io.files import reading
from sparse_sae.browser import schema
from sparse_sae.browser.contexts import INTERVALS

# what a list may be sorted by -> SQL; ids make every order a total one
ORDERS = {
    "id": "l.id",
    "density": "l.density DESC",
    "rare": "l.density",
    "maximum": "l.maximum DESC",
    "stability": "l.stability DESC",
    "unstable": "l.stability",
    "auroc": "abs(l.auroc - 0.5) DESC",
}
_FILTERS = {
    "min_density": "l.density >= ?",
    "max_density": "l.density <= ?",
    "min_stability": "l.stability >= ?",
    "max_stability": "l.stability <= ?",
    "min_auroc": "max(l.auroc, 1 - l.auroc) >= ?",
}
PAGE = 60
_COLUMNS = (
    "l.id, l.count, l.density, l.maximum, l.mean, l.norm, l.kind, l.label, l.stability, l.auroc, l.auroc_label, "
    "u.text AS note"
)


def open_browser(path: str | Path) -> BrowserFile:
    """Open a browser file: `open_browser("sae.db")[17]` shows latent 17 in a notebook. See `BrowserFile`."""
    return BrowserFile(path)


class BrowserFile:
    """A file of `sparse_sae.browser.build`, opened for reading; several threads may use it.

    Args:
        path: the file.

    Raises:
        FormatError: not such a file, of another version, truncated or damaged.

    >>> BrowserFile("sae.db")[17]  # doctest: +SKIP
    <latent 17 “refund”, “refunds”: fires on 0.12 % of 44,295 tokens>
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._connection = schema.connect(self.path)
        self._lock = threading.Lock()
        with schema.database_errors(self.path), reading(self.path, "a whole browser file"):
            self.meta = schema.read_meta(self._connection)
            self.d_sae: int = self.meta["d_sae"]

    def __len__(self) -> int:
        return self.d_sae

    def __repr__(self) -> str:
        where = f"{self.meta['hook_name'] or 'no hook'} of {self.meta['model_name'] or 'no model'}"
        return f"BrowserFile({self.d_sae:,} latents, {self.meta['rows']:,} tokens, {where})"

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def query(self, sql: str, values: Iterable[Any] = ()) -> list[Any]:
        """All rows of a statement."""
        with self._lock, schema.database_errors(self.path):
            return self._connection.execute(sql, tuple(values)).fetchall()

    def __getitem__(self, latent: int) -> Any:
        """The latent, which a notebook shows with its histogram, contexts and logits."""
        from sparse_sae.browser.card import Latent

        return Latent(self.latent(latent), self.meta)

    @cached_property
    def texts(self) -> list[str]:
        """Text of each token id."""
        return [row[0] for row in self.query("SELECT text FROM vocabulary ORDER BY id")]

    @lru_cache(maxsize=256)  # noqa: B019 (a file lives as long as its reader)
    def _chunk(self, number: int) -> Array:
        rows = self.query("SELECT ids FROM tokens WHERE chunk = ?", (number,))
        return np.frombuffer(rows[0][0], np.int32) if rows else np.zeros(0, np.int32)

    def tokens(self, begin: int, end: int) -> Array:
        """Token ids of the stream from begin to end - 1."""
        first, last = begin // schema.CHUNK, max(begin, end - 1) // schema.CHUNK
        joined = np.concatenate([self._chunk(i) for i in range(first, last + 1)])
        return joined[begin - first * schema.CHUNK : end - first * schema.CHUNK]

    def latents(
        self,
        text: str = "",
        *,
        sort: str = "",
        filters: Mapping[str, float] | None = None,
        kind: str = "",
        listed: int | None = None,
        offset: int = 0,
    ) -> dict[str, Any]:
        """A page of the list: {"total", "rows"}; `text` searches labels, peak tokens and contexts.

        Args:
            text: words; all must occur, the last may be a beginning. A number also finds that latent.
            sort: one of `ORDERS`; "" for relevance where there is a text, and for numbers else.
            filters: among min_density, max_density, min_stability, max_stability, min_auroc.
            kind: "dead", "alive", "labelled" (by the user), or a kind of automatic label (on, after, mixed).
            listed: only members of this list of the user.
            offset: rows to skip.

        Raises:
            ValueError: an unknown order, filter or kind.
        """
        if sort:
            one_of("sort", sort, ORDERS)
        where: list[str] = ["1"]
        values: list[Any] = []
        for name, value in (filters or {}).items():
            if name not in _FILTERS:
                raise ValueError(f"filters: got {name!r}, expected {', '.join(_FILTERS)}")
            where.append(_FILTERS[name])
            values.append(float(value))
        if kind:
            kinds = {"dead": "l.count = 0", "alive": "l.count > 0", "labelled": "u.text IS NOT NULL"}
            kinds |= {k: f"l.kind = '{k}'" for k in ("on", "after", "mixed")}
            one_of("kind", kind, kinds)
            where.append(kinds[kind])
        if listed is not None:
            where.append("l.id IN (SELECT latent FROM user_items WHERE list = ?)")
            values.append(whole("listed", listed))
        hits, source, order = "", "latents l", ORDERS.get(sort, "l.id")
        words = _fts(text)
        if text.strip():
            found = "SELECT rowid, bm25(search, 4.0, 1.0, 8.0) AS score FROM search WHERE search MATCH ?"
            notes = "SELECT latent, -1000.0 FROM user_labels WHERE text LIKE ? ESCAPE '\\'"
            parts, given = [notes], [f"%{_like(text.strip())}%"]
            if words:
                parts.append(found)
                given.append(words)
            if text.strip().isdigit() and int(text) < self.d_sae:
                parts.append("SELECT CAST(? AS INTEGER), -2000.0")
                given.append(str(int(text)))
            hits = f"WITH hits(latent, score) AS ({' UNION ALL '.join(parts)}) "
            best = "(SELECT latent AS hit, min(score) AS score FROM hits GROUP BY latent)"
            source = f"{best} f JOIN latents l ON l.id = f.hit"
            values = [*given, *values]
            order = ORDERS.get(sort, "f.score")
        rest = f"FROM {source} LEFT JOIN user_labels u ON u.latent = l.id WHERE {' AND '.join(where)}"
        total = self.query(f"{hits}SELECT count(*) {rest}", values)[0][0]
        rows = self.query(
            f"{hits}SELECT {_COLUMNS} {rest} ORDER BY {order}, l.id LIMIT {PAGE} OFFSET ?",
            [*values, max(0, whole("offset", offset))],
        )
        return {"total": total, "rows": [dict(row) for row in rows]}

    def brief(self, latents: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Row of the list by latent, for those given."""
        marks = ",".join("?" * len(latents))
        sql = f"SELECT {_COLUMNS} FROM latents l LEFT JOIN user_labels u ON u.latent = l.id WHERE l.id IN ({marks})"
        return {row["id"]: dict(row) for row in self.query(sql, map(int, latents))}

    def latent(self, latent: int) -> dict[str, Any]:
        """Everything about one latent, as JSON values.

        Raises:
            IndexError: no such latent.
        """
        latent = whole("latent", latent)
        if not 0 <= latent < self.d_sae:
            raise IndexError(f"latent: got {latent}, expected 0 to {self.d_sae - 1}")
        found = self.brief([latent])[latent]
        (row,) = self.query("SELECT * FROM panels WHERE id = ?", (latent,))
        panel = {name: schema.unpack(name, row[name]) for name in schema.ARRAYS}
        found["histogram"], found["intervals"] = panel["histogram"].tolist(), panel["intervals"].tolist()
        found["evidence"] = json.loads(row["evidence"])
        found["evidence"]["texts"] = [self.texts[t] for t in found["evidence"]["tokens"]]
        found["matches"], found["aurocs"] = json.loads(row["matches"]), json.loads(row["auroc"])
        found["logits"] = self._logits(json.loads(row["logits"]))
        found["contexts"] = self._contexts(panel)
        near = [int(j) for j in {*panel["nearest"].tolist(), *panel["together"].tolist()} if j >= 0]
        named = {j: brief["note"] or brief["label"] for j, brief in self.brief(near).items()}
        found["nearest"] = [
            {"id": j, "label": named[j], "cosine": round(c, 4)}
            for j, c in zip(panel["nearest"].tolist(), panel["cosine"].tolist(), strict=True)
            if j >= 0
        ]
        columns = [panel[name].tolist() for name in ("together", "phi", "given", "base")]
        found["together"] = [
            {"id": j, "label": named[j], "phi": round(phi, 4), "given": round(p, 4), "base": round(b, 6)}
            for j, phi, p, b in zip(*columns, strict=True)
            if j >= 0
        ]
        return found

    def _logits(self, effects: dict[str, Any] | None) -> dict[str, Any] | None:
        if effects is not None:
            for side in ("promoted", "suppressed"):
                effects[side] = [[self.texts[t], value] for t, value in effects[side]]
        return effects

    def _contexts(self, panel: dict[str, Array]) -> list[list[dict[str, Any]]]:
        """The strongest contexts, then those of each interval from the highest down: lists of contexts."""
        groups: list[list[dict[str, Any]]] = [[] for _ in range(INTERVALS + 1)]
        bounds, at = panel["bounds"].reshape(-1, 2), 0
        for i, group in enumerate(panel["groups"].tolist()):
            row, count = int(panel["rows"][i]), int(panel["counts"][i])
            begin, end = row - int(bounds[i, 0]), row + int(bounds[i, 1])
            inside = slice(at, at + count)
            at += count
            groups[0 if group < 0 else INTERVALS - group].append(
                {
                    "row": row,
                    "at": row - begin,
                    "value": round(float(panel["peaks"][i]), 4),
                    "tokens": [self.texts[t] for t in self.tokens(begin, end).tolist()],
                    "active": [
                        [o, round(v, 4)]
                        for o, v in zip(
                            panel["offsets"][inside].tolist(),
                            panel["activations"][inside].tolist(),
                            strict=True,
                        )
                    ],
                }
            )
        return groups

    def map(self) -> Array:
        """(d_sae, 3) uint16: x and y from 0 to 65535, and -1000 log10 of the density (65535: never fires)."""
        rows = np.array(self.query("SELECT x, y, density FROM latents ORDER BY id"), np.float64)
        out = np.full((self.d_sae, 3), 65535, np.uint16)
        out[:, :2] = np.clip(rows[:, :2], 0, 1) * 65535
        fires = rows[:, 2] > 0
        out[fires, 2] = np.clip(-1000 * np.log10(rows[fires, 2]), 0, 65534)
        return out

    def statistics(self) -> dict[str, Any]:
        """Histogram of log10 densities, from -7 to 0 in steps of a quarter, for the head of the list."""
        density = np.array(
            [r[0] for r in self.query("SELECT density FROM latents WHERE count > 0")], np.float64
        )
        heights, edges = np.histogram(np.log10(np.maximum(density, 1e-7)), bins=28, range=(-7, 0))
        return {"heights": heights.tolist(), "low": float(edges[0]), "high": float(edges[-1])}

    def lists(self) -> list[dict[str, Any]]:
        """The user's lists with their members."""
        items: dict[int, list[int]] = {}
        for row in self.query("SELECT list, latent FROM user_items ORDER BY latent"):
            items.setdefault(row["list"], []).append(row["latent"])
        return [
            {"id": r["id"], "name": r["name"], "latents": items.get(r["id"], [])}
            for r in self.query("SELECT id, name FROM user_lists ORDER BY name")
        ]


def _like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _fts(text: str) -> str:
    """A query of FTS5 in which nothing that a user types is an operator; "" where no word is left."""
    words = [w for w in text.replace('"', " ").replace("\0", " ").split() if any(c.isalnum() for c in w)]
    quoted = [f'"{word}"' for word in words]
    return " ".join(quoted) + ("*" if quoted and not text.endswith((" ", '"')) else "")

"""Watch-lists: which latents and directions are watched, at which threshold, and why they are on the list."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._arguments import as_json, real, whole
from sparse_sae._io.atomic import write_json
from sparse_sae._io.files import FormatError, read_json, reading
from sparse_sae.audit.hashes import sae_sha256, sha256_of

FORMAT, VERSION = "sparse_sae.watch_list", 1
_BYTES = 1 << 26  # a thousand directions of a wide model, with room


@dataclass(frozen=True)
class Watch:
    """One thing that is watched: a latent of the SAE, or a direction in the activations.

    Args:
        name: what events call it; once in a list.
        threshold: an event begins when the pooled value is above it. In units of the latent's activation, or of
            x · direction + bias.
        reason: why it is on the list, in a sentence.
        latent: its number; or None for a direction.
        direction: (d_in,) numbers; or None for a latent.
        bias: added to x · direction.
        provenance: how it was found: data and their hashes, scores, by whom. What JSON can hold.

    >>> Watch("refund", 4.0, "detects that a refund is asked for", latent=2560).kind
    'latent'
    """

    name: str
    threshold: float
    reason: str
    latent: int | None = None
    direction: Sequence[float] | None = None
    bias: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("name", "reason"):
            value = getattr(self, key)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{key}: got {value!r}, expected a text that is not empty")
        if (self.latent is None) == (self.direction is None):
            raise ValueError(f"{self.name}: expected either latent= or direction=, and not both")
        object.__setattr__(self, "threshold", real(f"{self.name}: threshold", self.threshold))
        object.__setattr__(self, "bias", real(f"{self.name}: bias", self.bias))
        if self.latent is not None:
            object.__setattr__(self, "latent", whole(f"{self.name}: latent", self.latent, least=0))
        else:
            vector = np.asarray(self.direction, dtype=np.float32)
            if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all() or not vector.any():
                raise ValueError(
                    f"{self.name}: direction: shape {vector.shape}, expected finite numbers (d_in,) that are "
                    "not all 0"
                )
            object.__setattr__(self, "direction", tuple(vector.tolist()))
        as_json(f"{self.name}: provenance", dict(self.provenance))

    @property
    def kind(self) -> str:
        """ "latent" or "direction"."""
        return "direction" if self.latent is None else "latent"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, what does not apply left out."""
        out: dict[str, Any] = {"name": self.name, "threshold": self.threshold, "reason": self.reason}
        if self.direction is None:
            out["latent"] = self.latent
        else:
            out |= {"direction": list(self.direction), "bias": self.bias}
        return out | {"provenance": copy.deepcopy(dict(self.provenance))}


@dataclass(frozen=True)
class WatchList:
    """What is watched at one hook point of one model.

    Args:
        watches: one or more, each with a name of its own.
        hook: hook point whose activations are read.
        model: name of the model, for the reader.
        sae: SHA-256 of the SAE (`sae_sha256`) that the latents belong to; None if there are directions only.
        exact: whether a latent of a TopK or BatchTopK SAE has the value of the full encoding, 0 where it loses the
            competition (all latents are encoded to know), or its own positive pre-activation. One is not the other:
            thresholds belong to the choice they were set with.
        skip: tokens at the beginning of each sequence that are not judged. The first position of most models holds
            an activation tens of times larger than any other, on which no SAE of ours is trained.
        revision: number of this list among its successors.

    >>> WatchList([Watch("up", 1.0, "an example", direction=[0.0, 1.0])], hook="blocks.0.hook_resid_post").d_in
    2
    """

    watches: Sequence[Watch]
    hook: str
    model: str = ""
    sae: str | None = None
    exact: bool = True
    skip: int = 1
    revision: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "watches", tuple(self.watches))
        if not self.watches:
            raise ValueError("watches: got none, expected at least one")
        names = [watch.name for watch in self.watches]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"watches: the names {twice} occur more than once; each needs a name of its own")
        widths = {len(watch.direction) for watch in self.watches if watch.direction is not None}
        if len(widths) > 1:
            raise ValueError(f"watches: directions of {sorted(widths)} numbers, expected one width, d_in")
        if self.latents and self.sae is None:
            raise ValueError("sae: got None, expected the SHA-256 of the SAE whose latents are watched")
        whole("skip", self.skip, least=0)
        whole("revision", self.revision, least=1)

    @classmethod
    def of(cls, sae: Any, watches: Sequence[Watch], **more: Any) -> WatchList:
        """A list for an SAE: its hash, hook point and model are taken from it, unless given.

        Raises:
            ValueError: a latent that the SAE does not have, a direction of another width, or no hook point is known.
        """
        hook = more.pop("hook", None) or sae.metadata.get("hook_name")
        if not hook:
            raise ValueError(
                "hook: the SAE's metadata name no hook point; give hook='blocks.15.hook_resid_post'"
            )
        model = more.pop("model", None) or str(sae.metadata.get("model_name") or "")
        made = cls(watches, hook=hook, model=model, sae=sae_sha256(sae), **more)
        made.require(sae)
        return made

    @property
    def latents(self) -> list[Watch]:
        """The watches that are latents."""
        return [watch for watch in self.watches if watch.kind == "latent"]

    @property
    def directions(self) -> list[Watch]:
        """The watches that are directions."""
        return [watch for watch in self.watches if watch.kind == "direction"]

    @property
    def d_in(self) -> int | None:
        """Width of the activations, if a direction tells it."""
        return next((len(w.direction) for w in self.watches if w.direction is not None), None)

    @property
    def sha256(self) -> str:
        """SHA-256 of the list's canonical JSON."""
        return sha256_of(self._body())

    def require(self, sae: Any) -> None:
        """Raise a ValueError unless `sae` is the one that the latents belong to, and is wide enough."""
        if self.d_in is not None and sae is not None and sae.d_in != self.d_in:
            raise ValueError(
                f"sae: d_in {sae.d_in}, expected {self.d_in}, the width of the watched directions"
            )
        if not self.latents:
            return
        if sae is None:
            raise ValueError("sae: got None, but latents are watched; pass the SAE they belong to")
        largest = max(int(watch.latent or 0) for watch in self.latents)
        if largest >= sae.d_sae:
            raise ValueError(f"watches: latent {largest}, expected 0 to d_sae - 1 = {sae.d_sae - 1}")
        found = sae_sha256(sae)
        if found != self.sae:
            raise ValueError(
                f"sae: its SHA-256 is {found[:16]}…, the watch-list is of {str(self.sae)[:16]}…: its latents mean "
                "nothing in another SAE; load the one that is named, or make a new list"
            )

    def revised(self, watches: Sequence[Watch]) -> WatchList:
        """The next revision, with other watches."""
        return replace(self, watches=tuple(watches), revision=self.revision + 1)

    def _body(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "revision": self.revision,
            "model": self.model,
            "hook": self.hook,
            "sae": self.sae,
            "exact": self.exact,
            "skip": self.skip,
            "watches": [watch.to_dict() for watch in self.watches],
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, `sha256` included."""
        return {**self._body(), "sha256": self.sha256}

    def save(self, path: str | Path) -> None:
        """Write the list as JSON, whole or not at all."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> WatchList:
        """Read what `save` wrote.

        Raises:
            FormatError: another kind of file, a version that this program does not read, a field that is missing or of
                another kind, or a list that is not the one that was hashed.
        """
        path = Path(path)
        return cls.from_dict(read_json(path, limit=_BYTES), path)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], path: str | Path = "watch-list") -> WatchList:
        """A list from what `to_dict` gave; `path` is what errors call it."""
        if value.get("format") != FORMAT or value.get("version") != VERSION:
            raise FormatError(
                f"{path}: format {value.get('format')!r}, version {value.get('version')!r}; expected {FORMAT!r}, "
                f"version {VERSION}"
            )
        with reading(Path(path), "a watch-list"):
            known = ("revision", "model", "hook", "sae", "exact", "skip")
            unknown = set(value) - {*known, "format", "version", "watches", "sha256"}
            if unknown:
                raise FormatError(f"{path}: unknown fields {sorted(unknown)}; a newer program wrote it?")
            made = cls([Watch(**watch) for watch in value["watches"]], **{key: value[key] for key in known})
        if made.sha256 != value.get("sha256"):
            raise FormatError(
                f"{path}: its SHA-256 is {made.sha256[:16]}…, the file says {str(value.get('sha256'))[:16]}…; it was "
                "changed after it was written. Make a new revision with WatchList.revised"
            )
        return made

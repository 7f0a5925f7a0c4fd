"""Latents silenced and added at the last token, and as much done along directions that have nothing to do with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae.audit.hashes import sha256, sha256_of
from sparse_sae.lm.studies.deciding import Edits

KINDS = ("silenced", "added")


@dataclass(frozen=True)
class LastTokenEdits:
    """Edits by L latents, and by C controls of equal norm.

    In this order: each latent silenced and added; along each control, `strength` added, and for each latent as much
    taken away as its own silencing takes.

    Args:
        sae: the SAE. latents: L numbers.
        controls: (C, d_in) directions of length 1.
        strength: what is added, in units of the activation.
    """

    sae: Any
    latents: list[int]
    controls: Array
    strength: float

    @classmethod
    def of(
        cls, sae: Any, latents: Sequence[int], rows: Array, share: float, controls: int, seed: int
    ) -> LastTokenEdits:
        """Controls drawn at random: directions, and in every second place the decoder row of another latent that is
        active on `rows`, (n, d_in) activations, of whose median norm `share` is added."""
        rng = np.random.default_rng(seed)
        drawn = rng.standard_normal((controls, rows.shape[1]))
        alive = np.setdiff1d(np.unique(sae.encode(rows).indices), latents)
        others = rng.permutation(alive)[: controls // 2]
        decoder = np.asarray(sae.rows["W_dec"], np.float64)
        drawn[1 : 2 * len(others) : 2] = decoder[others]
        if not np.linalg.norm(decoder[list(latents)], axis=1).all():
            raise ValueError(
                f"latents: a decoder row of {list(latents)} is 0; it can neither be added nor silenced"
            )
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        strength = share * float(np.median(np.linalg.norm(rows, axis=1)))
        return cls(sae, list(latents), drawn.astype(np.float32), strength)

    @property
    def n_controls(self) -> int:
        """C."""
        return len(self.controls)

    @property
    def sha256(self) -> str:
        """SHA-256 of latents, controls and strength."""
        return sha256_of([self.latents, sha256(self.controls.tobytes()), self.strength])

    @property
    def edits(self) -> Edits:
        """All of them, for `decide`."""
        return Edits.of_rows((2 + self.n_controls) * len(self.latents) + self.n_controls, self.applied)

    def of_latents(self) -> list[tuple[int, int, str]]:
        """(number, latent, kind) of the latents' own edits."""
        return [
            (2 * i + k, latent, kind) for i, latent in enumerate(self.latents) for k, kind in enumerate(KINDS)
        ]

    def index(self, kind: str, latent: int) -> tuple[int, list[int]]:
        """The number of a latent's edit, and those of its controls."""
        i, n = self.latents.index(latent), self.n_controls
        first = 2 * len(self.latents) + (0 if kind == "added" else n * (1 + i))
        return 2 * i + KINDS.index(kind), list(range(first, first + n))

    def applied(self, x: Array) -> Array:
        """(batch, d_in) float32 activations -> (batch, E, d_in), each as each edit leaves it."""
        decoder = np.asarray(self.sae.rows["W_dec"][self.latents], np.float32)
        norms = np.linalg.norm(decoder, axis=1)
        active = np.asarray(self.sae.encode(x)[:, self.latents].toarray(), np.float32)
        own = np.empty((len(active), 2 * len(norms), decoder.shape[1]), np.float32)
        own[:, 0::2] = -active[:, :, None] * decoder
        own[:, 1::2] = self.strength * decoder / norms[:, None]
        added = np.broadcast_to(self.strength * self.controls, (len(active), *self.controls.shape))
        taken = -(active * norms)[:, :, None, None] * self.controls
        changes = np.concatenate([own, added, taken.reshape(len(active), -1, decoder.shape[1])], 1)
        return np.asarray(x[:, None] + changes)

"""What a hook point is cut into: an SAE's features, neurons, or random directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparse_sae._arguments import one_of
from sparse_sae.circuits.dictionaries import DictionarySet
from sparse_sae.sae import SAE

Kind = Literal["features", "neurons", "random"]
KINDS: tuple[Kind, ...] = ("features", "neurons", "random")


@dataclass(frozen=True)
class Units:
    """The units of one hook point.

    Attributes:
        hook: the hook point.
        directions: (M, D) what each adds when it is 1.
        readers: (M, D) gradient of each, where active, with respect to the activation.
        offset: (D,) what is there without any.
        sae: whose features they are; None where they are coordinates, which leave no error.
    """

    hook: str
    directions: NDArray[np.float32]
    readers: NDArray[np.float32]
    offset: NDArray[np.float32]
    sae: SAE | None

    def __len__(self) -> int:
        return len(self.directions)

    def encode(self, x: NDArray[np.float32]) -> csr_array:
        """(N, M) of activations (N, D)."""
        if self.sae is not None:
            return self.sae.encode(x)
        return csr_array(x @ self.directions.T)

    def error(self, x: NDArray[np.float32], codes: csr_array) -> NDArray[np.float32]:
        """(N, D) what the units leave out; zero for coordinates."""
        if self.sae is None:
            return np.zeros_like(x)
        out: NDArray[np.float32] = x - (codes @ self.directions + self.offset)
        return out


def units_of(dictionaries: DictionarySet, kind: Kind, order: Sequence[str], seed: int = 0) -> list[Units]:
    """The units of every hook point, in the order given.

    Args:
        dictionaries: SAEs, which read what they write.
        kind: "features" of the SAEs; "neurons", the coordinates of the same hook points; "random", coordinates along
            random orthonormal directions.
        order: hook points, first to last.
        seed: of the random directions.

    Raises:
        ValueError: a transcoder, or another kind. NotImplementedError: an SAE that normalises each token.
    """
    one_of("units", kind, KINDS)
    rng = np.random.default_rng(seed)
    out = []
    for hook in order:
        d = dictionaries[hook]
        if d.reads != d.writes:
            raise ValueError(
                f"dictionaries: the one that writes {hook!r} reads {d.reads!r}, a transcoder; feature circuits take "
                "SAEs (attribute takes transcoders)"
            )
        if not d.sae.transform.is_identity:
            raise NotImplementedError(
                f"dictionaries: {hook!r} normalises each token, so its features are not linear directions; train it "
                "without"
            )
        width = d.sae.d_in
        none = np.zeros(width, np.float32)
        if kind == "features":
            rows = d.sae.rows
            W_dec, W_enc, b_dec = (
                np.asarray(m, np.float32) for m in (rows["W_dec"], rows["W_enc"], d.sae.b_dec)
            )
            out.append(Units(hook, W_dec, W_enc, b_dec, d.sae))
            continue
        basis = np.eye(width, dtype=np.float32)
        if kind == "random":
            basis = np.linalg.qr(rng.normal(size=(width, width)))[0].astype(np.float32)
        out.append(Units(hook, basis, basis, none, None))
    return out

"""What is read and what is written: the first of the two axes (the other is architectures/)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from sparse_sae._arguments import require
from sparse_sae._io.arrays import Array
from sparse_sae.transforms import Normalize, Transform

Kind: TypeAlias = Literal["sae", "transcoder", "crosscoder"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def kind_of(
    kind: str | None,
    sources: Sequence[int],
    widths: tuple[int, int],
    *,
    skip: bool,
    metadata: Mapping[str, Any],
) -> Kind:
    """What an SAE is: as it was said, held against what it has; else what that says.

    Args:
        kind: as it was said, or None. sources: widths of a crosscoder's parts. widths: d_in and d_out.
        skip: whether there is a W_skip. metadata: may name a `hook_name_out` of its own.

    Raises:
        ValueError: the two do not agree.
    """
    written = metadata.get("hook_name_out")
    elsewhere = written not in (None, metadata.get("hook_name"))
    differs = widths[0] != widths[1] or skip or elsewhere
    found = kind or ("crosscoder" if sources else "transcoder" if differs else "sae")
    known = next((known for known in KINDS if known == found), None)
    if known is None or (known == "crosscoder") != bool(sources):
        raise ValueError(
            f"kind: got {kind!r} with sources {tuple(sources)}, expected one of {', '.join(KINDS)}; a crosscoder, "
            "and nothing else, has sources"
        )
    if known == "sae" and differs:
        raise ValueError(
            f"kind: got 'sae', but it reads {widths[0]} and writes {widths[1]} numbers"
            + (" with a skip" if skip else "")
            + (f" at {written}" if elsewhere else "")
            + "; pass kind='transcoder'"
        )
    return known


@dataclass(frozen=True)
class Coder:
    """Splits rows into inputs and targets, and says how weights start and fold.

    Args:
        kind: "sae": the target is the input. "transcoder": data is a pair (input, output) and the target is the
            second. "crosscoder": data is several sources, read and written together with shared codes.
        skip: a transcoder's linear skip x @ W_skip.T beside its latents (Paulo et al. 2025, arXiv 2501.18823).

    >>> Coder("transcoder", skip=True).kind
    'transcoder'
    """

    kind: Kind = "sae"
    skip: bool = False

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "coder", self.kind, f"one of {', '.join(KINDS)}")
        if not isinstance(self.skip, bool):
            raise TypeError(f"skip: got {self.skip!r}, expected True or False")
        if self.skip and self.kind != "transcoder":
            raise ValueError(f"skip: only a transcoder has a skip, this is a {self.kind!r}")

    def check(self, widths: tuple[int, ...]) -> None:
        """Raise a ValueError where the data has the wrong number of parts."""
        expected = {"sae": len(widths) == 1, "transcoder": len(widths) == 2, "crosscoder": len(widths) >= 2}
        if not expected[self.kind]:
            raise ValueError(
                f"data: {len(widths)} array(s) side by side, expected "
                + {"sae": "1", "transcoder": "2: (input, output)", "crosscoder": "2 or more"}[self.kind]
                + f" for a {self.kind}"
            )

    @property
    def reads_all(self) -> bool:
        """Input and target are the same columns; b_dec then also centres the input."""
        return self.kind != "transcoder"

    def sources(self, widths: tuple[int, ...]) -> tuple[int, ...]:
        """Widths of a crosscoder's sources; () otherwise."""
        return widths if self.kind == "crosscoder" else ()

    def split(self, rows: Array, widths: tuple[int, ...]) -> tuple[Array, Array]:
        """(N, d_in) inputs and (N, d_out) targets."""
        if self.reads_all:
            return rows, rows
        return np.ascontiguousarray(rows[:, : widths[0]]), np.ascontiguousarray(rows[:, widths[0] :])

    def fit_transforms(
        self, kind: Normalize, sample: Array, widths: tuple[int, ...]
    ) -> tuple[Transform, Transform]:
        """The transform of inputs, and of targets."""
        x, y = self.split(sample, widths)
        # An SAE's input is centred by b_dec; a transcoder's is centred here, or its mean would swamp W_enc's gradient.
        t_x = Transform.fit(kind, x, self.sources(widths), center=not self.reads_all)
        if self.reads_all:
            return t_x, t_x
        if not t_x.folds:
            raise ValueError(
                f"normalize: {kind!r} depends on the token and is not defined for a transcoder's output"
            )
        return t_x, Transform.fit(kind, y)

    def config(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": self.kind, "skip": self.skip}

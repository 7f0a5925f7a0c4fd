"""The contract between the library and its kernels.

Letters: N rows, D inputs, M latents, K active latents of a row, L named latents. T is float32 or float64, the
same for every array of a call. Arrays are C-contiguous; x alone may have any row stride and any float type
(float16, float32, float64, or bfloat16 bits in uint16). Codes are CSR arrays (indptr (N + 1) int32,
indices (nnz) int32 ascending within a row, values (nnz) T). Every function gives bit-identical results for any
num_threads. screen says how candidates are found, "float" or (float32 only) "int8", by vectors, or "amx", by tiles of a
matrix; no result depends on it, and "auto" takes what SPARSE_SAE_SCREEN says, or what has been the fastest on this
machine for calls of the same d_in, d_sae, k and threads. `reference/` holds the same functions in NumPy.
"""

from types import ModuleType
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", np.float32, np.float64)
Ints: TypeAlias = npt.NDArray[np.int32]

FUNCTIONS: tuple[str, ...]
level: str
build_info: dict[str, Any]

def loadable_levels() -> list[str]: ...
def needs(level: str) -> list[str]: ...
def load(level: str) -> ModuleType: ...
def screens() -> list[dict[str, Any]]:
    """What has been measured of the screens in this process, a kind of call each; empty where there is no choice."""

def keep_int8(
    w: npt.NDArray[np.float32], *, sample: npt.NDArray[Any] | None = None, num_threads: int = 1
) -> tuple[object, int]:
    """A handle, and the bytes that it keeps: w (M, D), which must be read-only, as int8 too. As long as the handle
    lives and w stays read-only, calls of fewer than 512 rows on these very weights, without latents, find candidates by
    it, where the level has 8-bit dot products (build_info["int8"]) or screen is "int8" or "amx". sample (n, D): rows
    like those to come, centred, from which scales are taken."""

def encode_topk(
    x: npt.NDArray[Any],
    w: npt.NDArray[T],
    b: npt.NDArray[T] | None,
    k: int,
    *,
    center: npt.NDArray[T] | None = None,
    latents: Ints | None = None,
    absolute: bool = False,
    relu: bool = True,
    simple: bool = False,
    screen: str = "auto",
    num_threads: int = 1,
) -> tuple[Ints, Ints, npt.NDArray[T], int]:
    """The k largest of (x (N, D) - center (D)) . w (M, D)^T + b (M) in each row; ties go to the lower latent.

    absolute ranks by magnitude; relu drops what is not positive; zeros are always dropped. latents (L) restricts
    the choice to these rows of w, and the indices returned are positions in it. simple computes every
    pre-activation (the version the fast one is held against). Returns (indptr, indices, values, fallbacks), the
    last being the number of rows screening could not decide and that were computed in full.
    """

def encode_topk_aux(
    x: npt.NDArray[Any],
    w: npt.NDArray[T],
    b: npt.NDArray[T] | None,
    k: int,
    dead: npt.NDArray[np.bool_],
    aux_k: int,
    *,
    center: npt.NDArray[T] | None = None,
    absolute: bool = False,
    relu: bool = True,
    screen: str = "auto",
    num_threads: int = 1,
) -> tuple[Ints, Ints, npt.NDArray[T], Ints, Ints, npt.NDArray[T], int]:
    """encode_topk, and from the same sweep the aux_k largest, of either sign, among latents with dead (M) true.

    Returns (indptr, indices, values) of both and the fallbacks of both together: what two calls of encode_topk
    give (the second with latents=flatnonzero(dead), relu=False; its indices are latents of w), bit for bit.
    """

def encode_threshold(
    x: npt.NDArray[Any],
    w: npt.NDArray[T],
    b: npt.NDArray[T] | None,
    threshold: npt.NDArray[T] | None,
    *,
    center: npt.NDArray[T] | None = None,
    latents: Ints | None = None,
    screen: str = "auto",
    num_threads: int = 1,
) -> tuple[Ints, Ints, npt.NDArray[T]]:
    """Every pre-activation strictly above threshold (M), or above zero; zeros are dropped."""

def encode_batch_topk(
    x: npt.NDArray[Any],
    w: npt.NDArray[T],
    b: npt.NDArray[T] | None,
    total: int,
    *,
    center: npt.NDArray[T] | None = None,
    screen: str = "auto",
    num_threads: int = 1,
) -> tuple[Ints, Ints, npt.NDArray[T]]:
    """The `total` largest positive pre-activations of the whole batch; ties go to the lower row, then latent."""

def encode_omp(
    x: npt.NDArray[Any],
    w: npt.NDArray[T],
    k: int,
    *,
    center: npt.NDArray[T] | None = None,
    simple: bool = False,
    num_threads: int = 1,
) -> tuple[Ints, Ints, npt.NDArray[T]]:
    """Orthogonal matching pursuit of x - center over rows of w (M, D), all of norm 1 or 0, with codes >= 0.

    Up to k times the unused latent with the largest inner product with what is left joins, if that is positive
    (ties: the lower latent), and all codes are refitted by least squares over z >= 0. Zeros are dropped. A row
    whose squared norm is not finite gets no codes. simple multiplies every residual with all of w (the version
    the fast one, which keeps w w^T where that is at most 2^26 entries, is held against: the same bits).
    """

def encode_lasso(
    x: npt.NDArray[Any],
    w: npt.NDArray[T],
    penalty: float,
    *,
    rounds: int = 0,
    tolerance: float = 1e-5,
    center: npt.NDArray[T] | None = None,
    simple: bool = False,
    num_threads: int = 1,
) -> tuple[Ints, Ints, npt.NDArray[T], npt.NDArray[T]]:
    """min 1/2 |x - center - z w|^2 + penalty sum z over z >= 0, for rows of w (M, D) all of norm 1 or 0.

    A row ends when its duality gap is at most tolerance / 2 times its squared norm. rounds more times a latent with
    code z then pays v / (v + z) of the penalty, v = penalty / 4. Codes within rounding of zero are dropped; a row
    whose squared norm is not finite gets no codes. Returns (indptr, indices, values) and the gaps (N) over half the
    squared norms. simple as for encode_omp.
    """

def encode_iht(
    x: npt.NDArray[Any],
    w: npt.NDArray[T],
    k: int,
    *,
    step: float,
    n_steps: int = 60,
    center: npt.NDArray[T] | None = None,
    simple: bool = False,
    num_threads: int = 1,
) -> tuple[Ints, Ints, npt.NDArray[T]]:
    """n_steps times, from z = 0: the k largest positive elements of y + step (x - center - y w) w^T become z, where
    y = z + i / (i + 3) (z - the z before) (ties: the lower latent); then a refit over z >= 0 on the latents of the last
    z. Rows of w (M, D) have norm 1 or 0; a step of 1 / (largest eigenvalue of w w^T) is safe. Zeros are dropped; a row
    whose squared norm is not finite gets no codes. simple as for encode_omp.
    """

def decode(
    indptr: Ints,
    indices: Ints,
    values: npt.NDArray[T],
    w: npt.NDArray[T],
    bias: npt.NDArray[T] | None = None,
    *,
    num_threads: int = 1,
) -> npt.NDArray[T]:
    """codes . w (M, D) + bias (D), shape (N, D)."""

def code_grad(
    indptr: Ints, indices: Ints, grad: npt.NDArray[T], w: npt.NDArray[T], *, num_threads: int = 1
) -> npt.NDArray[T]:
    """For each entry (n, j): the inner product of grad (N, D)[n] and w (M, D)[j], shape (nnz)."""

def decode_residual(
    indptr: Ints,
    indices: Ints,
    values: npt.NDArray[T],
    w: npt.NDArray[T],
    target: npt.NDArray[T],
    *,
    out: npt.NDArray[T] | None = None,
    num_threads: int = 1,
) -> tuple[npt.NDArray[T], npt.NDArray[T], npt.NDArray[T]]:
    """residual = codes . w - target (N, D); code_grad of the residual (nnz); |residual|^2 of each row (N).

    The residual is written to `out` where it is given, which may be the target itself.
    """

def matmul_nt(x: npt.NDArray[T], w: npt.NDArray[T], *, num_threads: int = 1) -> npt.NDArray[T]:
    """x (N, D) . w (M, D)^T by Eigen, shape (N, M)."""

def weight_grad(
    indptr: Ints,
    indices: Ints,
    values: npt.NDArray[T],
    dense: npt.NDArray[T],
    n_latents: int,
    *,
    num_threads: int = 1,
) -> npt.NDArray[T]:
    """codes^T . dense, shape (M, D). The codes' rows wrap around those of dense: row n uses dense[n % len(dense)]."""

def latent_sums(
    indptr: Ints, indices: Ints, values: npt.NDArray[T], n_latents: int, *, num_threads: int = 1
) -> npt.NDArray[T]:
    """The sum of each latent's values, shape (M)."""

def adam_rows(
    w: npt.NDArray[T],
    m: npt.NDArray[T],
    v: npt.NDArray[T],
    grad: npt.NDArray[T],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    unit_norm: bool = False,
    scale: float = 1.0,
    num_threads: int = 1,
) -> None:
    """Adam (Kingma & Ba 2015) on w (M, D) in place; m, v are the moments, step counts from 1, scale multiplies grad.

    unit_norm removes the part of grad along each (unit) row before, and renormalises the row after.
    """

def update_rows(
    updates: list[dict[str, Any]],
    indptr: Ints,
    indices: Ints,
    n_latents: int,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    scale: float = 1.0,
    num_threads: int = 1,
) -> None:
    """weight_grad and adam_rows fused per latent, for several matrices that share the codes' pattern.

    Each update is a dict: w, m, v (M, D) changed in place; values (nnz) and dense (n, D) as in weight_grad;
    optional along (M): adds along[j] * w[j]; optional outer (M) with common (D): adds outer[j] * common;
    unit_norm as in adam_rows.
    """

def grad_squared_norm(
    updates: list[dict[str, Any]], indptr: Ints, indices: Ints, n_latents: int, *, num_threads: int = 1
) -> float:
    """The squared norm of all the gradients that update_rows would apply, projections included."""

def first_nonfinite_row(x: npt.NDArray[Any], *, num_threads: int = 1) -> int:
    """Index of the first row of x (N, D) that holds a NaN or an infinity, or -1."""

def gather(
    out: npt.NDArray[T],
    x: npt.NDArray[Any],
    index: npt.NDArray[np.int64],
    scale: npt.NDArray[np.float32] | None = None,
    *,
    center: npt.NDArray[T] | None = None,
    factor: npt.NDArray[T] | None = None,
    num_threads: int = 1,
) -> int:
    """out (N, D)[i] = (x (R, D)[index (N)[i]] * scale (R)[index[i]] - center (D)) * factor (D), each step rounded to T.

    x may also be int8; out may be columns of a wider array. Returns the first i whose row of out holds a NaN or an
    infinity, or -1.
    """

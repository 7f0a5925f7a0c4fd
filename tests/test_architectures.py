"""Every architecture × what it reads and writes × input normalisation: gradients, parity, resume, threads.

A new architecture is a row of ARCHITECTURES here, a line in `sparse_sae.architectures`, and its own file.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import sparse_sae
from sparse_sae import (
    L1,
    AbsTopK,
    BatchTopK,
    Coder,
    Gated,
    JumpReLU,
    Matryoshka,
    Resampling,
    TopK,
    train,
)
from sparse_sae.activations import ReLU
from sparse_sae.architectures import Architecture, Batch, Gradients, OrtSAE, products
from sparse_sae.architectures.base import Block, gradients, reconstruction
from sparse_sae.architectures.penalty import quantile_of_products
from sparse_sae.training.config import TrainConfig
from sparse_sae.training.run import Run

Array = np.ndarray[Any, Any]
M = 40
ARCHITECTURES: dict[str, Architecture] = {
    "topk": TopK(k=4),
    "topk-multi": TopK(k=3, multi_k=9),
    "topk-annealed": TopK(k=3, start_k=8, anneal=0.9),
    "abstopk": AbsTopK(k=4),
    "batchtopk": BatchTopK(k=4),
    "matryoshka": Matryoshka(k=4, widths=(5, 17, M)),
    "matryoshka-topk": Matryoshka(k=4, batch=False),
    "ortsae": OrtSAE(k=4, orthogonality=0.5, sample=7),
    "l1": L1(coefficient=0.3, aux_k=3),
    "l1-unit": L1(coefficient=0.3, free_norms=False),
    "gated": Gated(coefficient=0.3, aux_k=3),
    "jumprelu": JumpReLU(coefficient=0.02, bandwidth=0.8, aux_k=3),
    "jumprelu-tanh": JumpReLU(coefficient=0.02, recipe="tanh", bandwidth=0.8, preact_coefficient=0.01),
    "l1-target": L1(target_l0=5),
    "jumprelu-target": JumpReLU(target_l0=5),
}
CODERS = {
    "sae": (Coder("sae"), (7,)),
    "transcoder": (Coder("transcoder"), (7, 5)),
    "skip": (Coder("transcoder", skip=True), (7, 5)),
    "crosscoder": (Coder("crosscoder"), (4, 3)),
}
TRANSFORMS = ("none", "scale", "whiten", "token_norm", "layer_norm")
TABLE = [(a, c) for a in ARCHITECTURES for c in CODERS]


def rows(widths: tuple[int, ...], n: int = 600) -> tuple[Array, ...]:
    """Sparse combinations of planted directions, away from the origin, a part for each width."""
    rng = np.random.default_rng(0)
    codes = np.where(rng.random((n, 20)) < 0.15, rng.uniform(1, 3, (n, 20)), 0)
    x = codes @ rng.standard_normal((20, sum(widths))) + rng.standard_normal(sum(widths))
    return tuple(np.split(x.astype(np.float32), np.cumsum(widths)[:-1], axis=1))


def options(**changes: Any) -> dict[str, Any]:
    return {
        "d_sae": M,
        "n_tokens": 1800,
        "batch_size": 60,
        "dead_after": 240,
        "seed": 3,
        "lr": 2e-3,
        **changes,
    }


def trained_run(
    name: str, coder: str, normalize: str = "scale", dtype: str = "float32", steps: int = 15
) -> Any:
    """A run after some steps, with some latents dead, and rows for another."""
    kind, widths = CODERS[coder]
    data = np.concatenate(rows(widths), axis=1)
    chosen = options(normalize=normalize, dtype=dtype, betas=(0.0, 0.99), coder=kind)
    run = Run.start(data, TrainConfig(ARCHITECTURES[name], **chosen), widths, 1)
    run.params["b_enc"][:6] -= 8  # never fire
    for step in range(steps):
        run.step(*run.transformed(data[step % 9 * 60 :][:60]))
    return run, data[-60:]


def surrogate_loss(run: Run, x: Array, y: Array) -> Callable[[dict[str, Array]], float]:
    """The loss in dense NumPy. What a gradient must not pass (selections, the AuxK error, Gated's frozen decoder) is
    fixed at the run's parameters; what has a pseudo-gradient is replaced by the ramp that has it as derivative."""
    arch: Any = run.architecture
    base = {k: v.copy() for k, v in run.params.items()}
    n, batch = len(x), run.batch(x, y)
    variance, progress = run.power, batch.progress
    dead = np.flatnonzero(batch.dead)

    def parts(p: dict[str, Array]) -> tuple[Array, Array]:
        target = y - p["b_dec"] - (x @ p["W_skip"].T if "W_skip" in p else 0)
        return (x - p["b_dec"] if run.coder.reads_all else x) @ p["W_enc"].T + p["b_enc"], target

    def norms(p: dict[str, Array]) -> Any:
        ends = np.cumsum(batch.sources or (p["W_dec"].shape[1],))[:-1]
        return sum(np.linalg.norm(part, axis=1) for part in np.split(p["W_dec"], ends, axis=1))

    def fit(z: Array, p: dict[str, Array], target: Array) -> float:
        return float(((z @ p["W_dec"] - target) ** 2).sum() / (n * variance))

    def chosen(pre: Array, k: int, absolute: bool = False) -> Array:
        kept = np.zeros(pre.shape, bool)
        order = np.argsort(-(abs(pre) if absolute else pre), axis=1, kind="stable")[:, :k]
        np.put_along_axis(kept, order, True, axis=1)
        return kept

    pre0, target0 = parts(base)
    price = arch.penalty(base, batch) if hasattr(arch, "penalty") else 0.0
    z0 = np.maximum(pre0, 0)
    window = ramp = np.zeros_like(pre0)
    if isinstance(arch, TopK):
        k = arch.k_now(batch)
        if isinstance(arch, BatchTopK) and getattr(arch, "batch", True):
            keep = pre0 >= np.sort(pre0.ravel())[-k * n]
        else:
            keep = chosen(pre0, k, arch.absolute)
        keep &= (pre0 > 0) | arch.absolute
        wide = chosen(pre0, arch.multi_k) & (pre0 > 0)
        z0 = keep * pre0
    if isinstance(arch, JumpReLU):
        theta0 = np.exp(base["log_threshold"])
        window = ((abs(pre0 - theta0) < arch.bandwidth / 2) & (pre0 > 0)) / arch.bandwidth
        ramp, active = theta0 * window, pre0 > theta0
        z0 = active * pre0
    if isinstance(arch, Gated):
        z0 = (pre0 > 0) * np.maximum(np.exp(base["r_mag"]) * (pre0 - base["b_enc"]) + base["b_mag"], 0)
    error = target0 - z0 @ base["W_dec"]
    aux_k = 3 if arch.aux_k is None else arch.aux_k
    aux = chosen(
        np.where(batch.dead, abs(pre0) if getattr(arch, "absolute", False) else pre0, -np.inf),
        min(aux_k, len(dead)),
    )

    def loss(p: dict[str, Array]) -> float:
        pre, target = parts(p)
        if isinstance(arch, Matryoshka):
            z = keep * pre
            total = float(np.mean([fit(z * (np.arange(M) < w), p, target) for w in arch.nested(M)]))
        elif isinstance(arch, TopK):
            total = fit(keep * pre, p, target)
            total += arch.multi_coefficient * fit(wide * pre, p, target) if arch.multi_k else 0
        elif isinstance(arch, L1):
            z = np.maximum(pre, 0)
            total = fit(z, p, target) + price * float((z @ norms(p)).mean()) / variance**0.5
        elif isinstance(arch, Gated):
            gate = np.maximum(pre, 0)
            z = (pre > 0) * np.maximum(np.exp(p["r_mag"]) * (pre - p["b_enc"]) + p["b_mag"], 0)
            total = fit(z, p, target) + price * float((gate @ norms(p)).mean()) / variance**0.5
            total += fit(gate, base, target0)
        else:
            theta = np.exp(p["log_threshold"])
            moved = np.where(active, pre - pre0, 0) - ramp * (theta - theta0)
            if arch.recipe == "step":
                total = fit(z0 + moved, p, target)
                total += price * float((active - window * (theta - theta0)).sum()) / n
            else:
                z = z0 + moved + ramp * (pre - pre0)
                total = fit(z, p, target) + price * float(np.tanh(arch.tanh_scale * z * norms(p)).sum()) / n
                silent = np.where(active, 0, theta - pre)
                total += arch.preact_coefficient * float((silent @ norms(p)).mean())
        if len(dead) and aux_k:
            power = float((error**2).sum()) / n
            total += (
                arch.aux_coefficient
                * float(
                    ((aux * pre) @ p["W_dec"] - error).ravel() @ ((aux * pre) @ p["W_dec"] - error).ravel()
                )
                / (n * power)
            )
        if isinstance(arch, OrtSAE):
            products = p["W_dec"] @ p["W_dec"].T - np.diag((p["W_dec"] ** 2).sum(axis=1))
            nearest = np.abs(products[arch.compared(M, progress)]).max(axis=1)
            total += arch.orthogonality * float((nearest**2).mean())
        assert 0 <= progress < 1
        return total

    return loss


@pytest.mark.parametrize(
    ("name", "coder", "dense"),
    [(a, c, False) for a, c in TABLE] + [(a, "crosscoder", True) for a in ARCHITECTURES],
)
def test_gradients(name: str, coder: str, dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directional central differences in float64, parameter by parameter, of the gradient Adam was given."""
    monkeypatch.setattr(products, "DENSE_FORWARD", -1.0 if dense else 2.0)
    monkeypatch.setattr(products, "DENSE_BACKWARD", -1.0 if dense else 2.0)
    run, more = trained_run(name, coder, dtype="float64")
    x, y = run.transformed(more)
    batch = run.batch(x, y)
    assert batch.dead.any()
    loss = surrogate_loss(run, x, y)
    before = {k: v.copy() for k, v in run.params.items()}
    g = run.step(x, y)
    assert g.loss == pytest.approx(loss(before), rel=1e-9)
    rng = np.random.default_rng(1)
    fixed = {"threshold_mean", "penalty"}
    for parameter in before.keys() - fixed:
        grad = run.adam.m[parameter]  # beta1 is 0: the first moment is the gradient
        direction = rng.standard_normal(grad.shape)
        if parameter == "W_dec" and run.architecture.unit_norm:
            direction -= (direction * before["W_dec"]).sum(axis=1, keepdims=True) * before["W_dec"]
        step = 1e-6 / np.abs(direction).max()
        ends = [loss({**before, parameter: before[parameter] + s * step * direction}) for s in (1, -1)]
        numeric = (ends[0] - ends[1]) / (2 * step)
        size = float(np.abs(grad).ravel() @ np.abs(direction).ravel())
        assert size > 0, f"{parameter}: no gradient"
        assert abs(float((grad * direction).sum()) - numeric) < 1e-5 * size + 1e-9, parameter


@pytest.mark.parametrize(
    ("name", "coder", "normalize"),
    [(a, c, t) for a, c in TABLE for t in TRANSFORMS if "_norm" not in t or c in ("sae", "crosscoder")],
)
def test_finished_equals_training_and_survives_saving(
    name: str, coder: str, normalize: str, tmp_path: Path
) -> None:
    run, more = trained_run(name, coder, normalize, "float64", steps=5)
    sae = run.finished({"hook_name": "here"})
    x, y = run.transformed(more)
    batch = run.batch(x, y)
    codes = run.architecture.encode(run.params, batch.x, None)
    width = run.widths[0] if coder in ("transcoder", "skip") else sum(run.widths)
    raw = np.ascontiguousarray(more[:, :width], dtype=np.float64)
    found = sae.encode(raw)
    np.testing.assert_array_equal(found.indptr, codes.indptr)
    np.testing.assert_array_equal(found.indices, codes.indices)

    inner = sparse_sae._kernels.decode(*codes, run.params["W_dec"])
    expected = y - batch.y + inner
    transform = run.transforms[0] if run.coder.reads_all else run.transforms[1]
    if transform.folds:
        undo = transform.apply(np.zeros_like(expected))[1]
        if run.architecture.unit_norm and normalize != "whiten" and coder != "crosscoder":
            np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, rtol=1e-9)
    else:
        undo = transform.apply(raw)[1]
    np.testing.assert_allclose(sae.reconstruct(raw), undo(expected), rtol=1e-8, atol=1e-8)

    sae.save(tmp_path / "sae")
    again = sparse_sae.load(tmp_path / "sae")
    assert again.activation == sae.activation
    for key, value in sae.params.items():
        np.testing.assert_array_equal(again.params[key], value)
    np.testing.assert_array_equal(again.encode(raw).data, found.data)


@pytest.mark.parametrize(
    ("name", "coder", "resampling"),
    [(a, c, None) for a, c in TABLE] + [(a, "sae", Resampling(at=(0.3, 0.6))) for a in ARCHITECTURES],
)
def test_resume_and_threads(name: str, coder: str, resampling: Resampling | None, tmp_path: Path) -> None:
    """Interrupted, resumed, and with another number of threads: the same bits."""
    kind, widths = CODERS[coder]
    data: Any = rows(widths)
    data = data[0] if len(data) == 1 else data
    arguments: dict[str, Any] = {**options(batch_size=60, lr=1e-2), "coder": kind, "resampling": resampling}
    whole = train(data, ARCHITECTURES[name], **arguments, num_threads=3)

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 10:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(data, ARCHITECTURES[name], **arguments, out=out, callback=stop)
    rest = train(data, ARCHITECTURES[name], **arguments, out=out, resume=True, num_threads=1)
    assert [r["loss"] for r in rest.history] == [r["loss"] for r in whole.history]
    for key, value in whole.sae.params.items():
        np.testing.assert_array_equal(value, rest.sae.params[key], err_msg=key)


@dataclass(frozen=True)
class Toy(Architecture):
    """Plain ReLU: all that a new architecture has to say."""

    name: ClassVar[str] = "toy"

    @property
    def activation(self) -> ReLU:
        return ReLU()

    def step(self, params: Any, batch: Batch) -> Gradients:
        codes = self.encode(params, batch.x, None)
        out, dz, squared, loss = reconstruction(codes, params, batch.y, batch.variance, 1)
        blocks, parts = [Block(codes, dz, out)], {"reconstruction": loss}
        return gradients(params, batch, blocks, codes=codes, squared=squared, parts=parts, output=out)


def test_a_new_architecture_is_a_class_and_a_registry_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sparse_sae.ARCHITECTURES, "toy", Toy)
    (x,) = rows((7,))
    result = train(x, Toy(), d_sae=20, n_tokens=20_000, lr=1e-2)
    assert sparse_sae.evaluate(result.sae, x).fvu < 0.1
    result.sae.save(tmp_path / "sae")
    assert sparse_sae.load(tmp_path / "sae").activation == ReLU()


def test_the_start_of_jumprelu_is_a_quantile_in_bounded_memory() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 8)).astype(np.float32)
    w, b = rng.standard_normal((8192, 8)).astype(np.float32), rng.standard_normal(8192).astype(np.float32)
    for rows, share in ((50, 0.997), (50, 0.5), (1, 0.9), (3, 0.0)):
        expected = np.quantile(x[:rows] @ w.T + b, share)
        assert quantile_of_products(x[:rows], w, b, share) == pytest.approx(float(expected), rel=1e-5)
    tracemalloc.start()
    quantile_of_products(np.tile(x, (2, 1)), w, b, 0.996)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * 8192 * 4 / 2  # half of one dense matrix of pre-activations

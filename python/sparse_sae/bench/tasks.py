"""What is measured: encoding, training steps, sparse products, latencies."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from sparse_sae import _kernels
from sparse_sae._io.arrays import Array
from sparse_sae.bench.timing import SIZES, Line, Size, Task, in_turns, peak_megabytes

SCREEN_TRIALS = 6  # calls after which the kernels have tried every screen

# Aims of encode + TopK and of a training step, in G: where bytes multiply four times faster than floats, and elsewhere.
AIMS = {
    (True, "medium"): (0.43, 0.70),
    (True, "large"): (0.37, 0.60),
    (False, "medium"): (1.0, 1.15),
    (False, "large"): (1.0, 1.05),
}


class Problem:
    """Random rows, unit weight rows and a bias for one size, and the codes they give."""

    def __init__(self, size: Size, threads: int) -> None:
        rng = np.random.default_rng(0)
        self.size, self.threads = size, threads
        self.x = rng.standard_normal((size.n, size.d), dtype=np.float32)
        self.w = rng.standard_normal((size.m, size.d), dtype=np.float32)
        self.w /= np.linalg.norm(self.w, axis=1, keepdims=True)
        self.b = np.zeros(size.m, np.float32)

    def encode(self, threads: int | None = None) -> tuple[Array, Array, Array]:
        """The codes."""
        found = _kernels.encode_topk(self.x, self.w, self.b, self.size.k, num_threads=threads or self.threads)
        return found[:3]

    def check(self) -> None:
        """The codes of a few rows are those of NumPy's product and sort."""
        indptr, indices, values = self.encode()
        rows = np.unique(np.linspace(0, self.size.n - 1, 5).astype(int))
        pre = self.x[rows].astype(np.float64) @ self.w.T
        for row, exact in zip(rows, pre, strict=True):
            at = slice(indptr[row], indptr[row + 1])
            best = np.sort(np.argsort(-exact)[: self.size.k])
            if not (np.array_equal(indices[at], best) and np.allclose(values[at], exact[best], atol=1e-4)):
                raise AssertionError(f"encode_topk: wrong codes in row {row} at {self.size}")

    def products(self) -> dict[str, Task]:
        """What G is the fastest of."""
        tasks: dict[str, Task] = {
            "Eigen": lambda: _kernels.matmul_nt(self.x, self.w, num_threads=self.threads),
            "NumPy": lambda: self.x @ self.w.T,
        }
        if find_spec("torch"):
            import torch

            torch.set_num_threads(self.threads)
            a, b = torch.from_numpy(self.x), torch.from_numpy(self.w)
            tasks["torch"] = lambda: a @ b.T
        return tasks

    def auxiliary(self) -> dict[str, Task]:
        """What AuxK adds where half the latents are dead, as far as a kernel does it alone."""
        dead = np.zeros(self.size.m, bool)
        dead[np.random.default_rng(1).permutation(self.size.m)[: self.size.m // 2]] = True

        def encode() -> Any:
            return _kernels.encode_topk_aux(
                self.x, self.w, self.b, self.size.k, dead, self.size.d // 2, num_threads=self.threads
            )

        _, _, _, indptr, indices, values, _ = encode()
        return {
            "encode with AuxK": encode,
            "decode + code gradient of AuxK": lambda: _kernels.decode_residual(
                indptr, indices, values, self.w, self.x, num_threads=self.threads
            ),
        }

    def gigaflops(self, seconds: float) -> str:
        """Of the encoder's product."""
        return f"{2e-9 * self.size.n * self.size.d * self.size.m / seconds:.0f} GFLOP/s"


def training(problem: Problem, architecture: Any = None) -> tuple[Any, Callable[[float], Any]]:
    """A training run at this size, of TopK unless told, and a function that makes one step with a share of the
    latents dead."""
    from sparse_sae.architectures import TopK
    from sparse_sae.training.config import TrainConfig
    from sparse_sae.training.run import Run

    size = problem.size
    config = TrainConfig(
        architecture or TopK(k=size.k),
        d_sae=size.m,
        n_tokens=10**6 * size.n,
        batch_size=size.n,
        dead_after=10**12,
        normalize="none",
        b_dec_init="mean",
    )
    run = Run.start(problem.x, config, (size.d,), problem.threads)
    order = np.random.default_rng(1).permutation(size.m)

    def step(dead: float) -> Any:
        run.tokens_since_fired[:] = 0
        run.tokens_since_fired[order[: int(dead * size.m)]] = 2 * 10**12
        return run.step(*run.transformed(problem.x))

    return run, step


def products(name: str, threads: int, *, steps: bool = True) -> tuple[dict[str, float], list[Line]]:
    """Encoding and whole training steps beside G."""
    problem = Problem(SIZES[name], threads)
    problem.check()
    tasks = {**problem.products(), "encode": problem.encode}
    if steps:
        run, step = training(problem)
        before = run.params["W_dec"].copy()
        losses = [step(dead).loss for dead in (0.0, 0.5, 0.0)]
        if not np.isfinite(losses).all() or np.array_equal(before, run.params["W_dec"]):
            raise AssertionError(f"training step: losses {losses}")
        tasks |= {"step": lambda: step(0.0), "step, half dead": lambda: step(0.5), **problem.auxiliary()}
    if threads > 1:
        for _ in range(SCREEN_TRIALS):
            problem.encode(1)
        tasks["encode, 1 thread"] = lambda: problem.encode(1)
        tasks["Eigen, 1 thread"] = lambda: _kernels.matmul_nt(problem.x, problem.w, num_threads=1)
    seconds = in_turns(tasks, seconds=40)
    g = min(seconds[p] for p in problem.products())
    rates = {t: problem.gigaflops(s) for t, s in seconds.items()}
    aim = name != "small"  # what is aimed at for the small size is a multiple of another library's speed
    aim_encode, aim_step = AIMS.get((_kernels.level == "x86_64_v4_vnni", name), (0.0, 0.0))
    lines = [Line("encode + TopK", name, seconds["encode"], "G", g, aim_encode, rates["encode"])]
    if steps:
        lines.append(Line("training step", name, seconds["step"], "G", g, aim_step))
        half = seconds["step, half dead"]
        lines.append(Line("training step, half dead", name, half, "step", seconds["step"], 1.4 * aim))
        select = seconds["encode with AuxK"] - seconds["encode"]
        fit = seconds["decode + code gradient of AuxK"]
        rest = half - seconds["step"] - select - fit
        lines.append(Line("… its second selection", name, select, "G", g))
        lines.append(Line("… its decode + code gradient", name, fit, "G", g))
        lines.append(Line("… its share of the update, and the rest", name, rest, "G", g))
    if threads > 1:
        alone, limit = seconds["encode, 1 thread"], 1 / 1.85 if aim and threads == 2 else 0.0
        lines.append(Line(f"encode, {threads} threads", name, seconds["encode"], "1 thread", alone, limit))
        both, alone = seconds["Eigen"], seconds["Eigen, 1 thread"]
        lines.append(Line(f"Eigen's product, {threads} threads", name, both, "1 thread", alone))
    lines.append(
        Line(
            "memory of an encode, result included", name, peak_megabytes(problem.encode), unit="MB", limit=64
        )
    )
    if steps:
        for kind, dead in (("a step", 0.0), ("a half-dead step", 0.5)):
            memory = peak_megabytes(partial(step, dead))
            lines.append(Line(f"memory of {kind}", name, memory, unit="MB", limit=64))
    return seconds, lines


def sparse(name: str, threads: int) -> tuple[dict[str, float], list[Line]]:
    """Decoding and updating beside torch's embedding_bag and a copy of the memory they touch."""
    problem = Problem(SIZES[name], threads)
    size, codes = problem.size, problem.encode()
    w_enc, w_dec = problem.w.copy(), problem.w
    moments = [np.zeros_like(w_enc) for _ in range(4)]
    updates = [
        {"w": w_enc, "m": moments[0], "v": moments[1], "values": codes[2], "dense": problem.x},
        {
            "w": w_dec,
            "m": moments[2],
            "v": moments[3],
            "values": codes[2],
            "dense": problem.x,
            "unit_norm": True,
        },
    ]
    adam: dict[str, Any] = {"lr": 1e-4, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "step": 1}
    tasks: dict[str, Task] = {
        "decode": lambda: _kernels.decode(*codes, w_dec, num_threads=threads),
        "decode + code gradient": lambda: _kernels.decode_residual(
            *codes, w_dec, problem.x, num_threads=threads
        ),
    }
    if find_spec("torch"):
        import torch

        torch.set_num_threads(threads)
        ids, starts, weights = (
            torch.from_numpy(codes[i].astype(t)) for i, t in ((1, "i8"), (0, "i8"), (2, "f4"))
        )
        table, bag = torch.from_numpy(w_dec), torch.nn.functional.embedding_bag
        tasks["embedding_bag"] = lambda: bag(ids, table, starts[:-1], mode="sum", per_sample_weights=weights)
        if not np.allclose(tasks["embedding_bag"]().numpy(), tasks["decode"](), atol=1e-3):
            raise AssertionError("decode differs from embedding_bag")
    seconds = in_turns(tasks, repeats=15)
    tasks = {
        "update": lambda: _kernels.update_rows(
            updates, codes[0], codes[1], size.m, num_threads=threads, **adam
        ),
        "copy": copy_task([w_enc, w_dec, *moments], threads),
    }
    seconds |= in_turns(tasks, repeats=9)
    gathered = f"{4e-9 * len(codes[1]) * size.d / seconds['decode']:.0f} GB/s"
    moved = 8e-9 * 6 * size.m * size.d
    aim = name != "small"
    lines = []
    if "embedding_bag" in seconds:
        lines.append(
            Line(
                "decode",
                name,
                seconds["decode"],
                "embedding_bag",
                seconds["embedding_bag"],
                1.0 * aim,
                gathered,
            )
        )
    lines += [
        Line(
            "decode + code gradient",
            name,
            seconds["decode + code gradient"],
            "decode",
            seconds["decode"],
            1.3 * aim,
        ),
        Line(
            "gradients, Adam, unit norm",
            name,
            seconds["update"],
            "1.5 copy + 2 decode",
            1.5 * seconds["copy"] + 2 * seconds["decode"],
            1.0,
            f"{moved / seconds['update']:.0f} GB/s",
        ),
        Line(
            "copy of parameters and moments",
            name,
            seconds["copy"],
            rate=f"{moved / seconds['copy']:.0f} GB/s",
        ),
    ]
    return seconds, lines


def copy_task(arrays: list[Array], threads: int) -> Task:
    """Copies arrays into others of the same sizes, by as many threads."""
    pool = ThreadPoolExecutor(threads)
    pairs = [(to, a) for array in arrays for a in np.array_split(array, threads) for to in [np.ones_like(a)]]
    return lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs))

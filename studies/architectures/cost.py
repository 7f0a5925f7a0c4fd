"""CPU seconds: of a training step, of several SAEs at once, and where dense products beat sparse ones."""

from __future__ import annotations

import time

import numpy as np
from common import NAMES, keep, others

import sparse_sae
from sparse_sae import TopK, _kernels
from sparse_sae.architectures import products
from sparse_sae.codes import Codes
from sparse_sae.data.store import ActivationStore
from sparse_sae.training.config import TrainConfig
from sparse_sae.training.optim import default_lr
from sparse_sae.training.run import Run


def steps(options):
    """Seconds of a training step beside one product of its batch with the encoder, in the same process."""
    x = ActivationStore(options.store).split(0.1)[0].rows(slice(60_000))
    n = options.batch_size or 512
    section = "steps" if n == 512 else f"steps_{n}"
    rows = others(section, options.only or NAMES)
    for name in options.only or NAMES:
        how = TrainConfig(
            NAMES[name](32),
            d_sae=options.d_sae,
            n_tokens=780 * n,
            batch_size=n,
            lr=default_lr(options.d_sae, 780),
            dead_after=10**9,
        )
        run = Run.start(x[:16384], how, x.shape[1:], 1)
        seconds, products, active = [], [], []
        for step in range(120):
            batch = run.transformed(x[np.random.default_rng([1, step]).integers(0, len(x), n)])
            started = time.process_time()
            gradients = run.step(*batch)
            seconds.append(time.process_time() - started)
            active.append(len(gradients.codes.indices) / n)
            if step >= 90:
                started = time.process_time()
                batch[0] @ run.params["W_enc"].T
                products.append(time.process_time() - started)
        step, product = float(np.median(seconds[90:])), float(np.median(products))
        row = {"seconds": step, "product_seconds": product, "l0": float(np.mean(active[90:]))}
        rows.append({"architecture": name, "target": 32, "d_sae": options.d_sae, "batch_size": n, **row})
        keep(section, rows)


def many(options):
    """Four SAEs from one pass over a store, and one after another."""
    data = ActivationStore(options.store).split(0.1)[0]
    common = {"n_tokens": options.tokens or 50_000, "progress": False, "num_threads": 1}
    runs = {
        f"k {k}, {d_sae} latents": {"architecture": TopK(k=k), "d_sae": d_sae}
        for d_sae in (1152, 2304)
        for k in (16, 32)
    }
    started = time.process_time()
    together = sparse_sae.train_many(data, runs, **common)
    result = {"n_tokens": common["n_tokens"], "together": time.process_time() - started, "alone": {}}
    for name, run in runs.items():
        started = time.process_time()
        alone = sparse_sae.train(data, **run, **common)
        result["alone"][name] = time.process_time() - started
        assert np.array_equal(alone.sae.W_dec, together[name].sae.W_dec)
    keep("many", result)


def crossover(_):
    """CPU seconds of the sparse and the dense way over a range of densities, one thread."""
    n, m, d = 1024, 4608, 576
    rng = np.random.default_rng(0)
    w, x = (rng.standard_normal((size, d), dtype=np.float32) for size in (m, n))
    moments = [np.zeros_like(w) for _ in range(4)]
    how = {"lr": 0.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "step": 1, "num_threads": 1}

    def best(function):
        times = []
        for _ in range(4):
            started = time.process_time()
            function()
            times.append(time.process_time() - started)
        return min(times)

    rows = []
    for density in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85):
        mask = rng.random((n, m)) < density
        codes = Codes(
            np.concatenate([[0], mask.sum(axis=1).cumsum()]).astype(np.int32),
            np.nonzero(mask)[1].astype(np.int32),
            rng.random(int(mask.sum())).astype(np.float32),
        )
        updates = [
            {"w": w, "m": moments[2 * i], "v": moments[2 * i + 1], "values": codes.values, "dense": x}
            for i in (0, 1)
        ]

        def dense_update(codes=codes, updates=updates):
            for u in updates:
                grad = products.dense_weight_grad(*codes[:2], codes.values, x, m, 1)
                _kernels.adam_rows(u["w"], u["m"], u["v"], grad, **how)

        row = {"density": density}
        for way, limit in (("sparse", 2.0), ("dense", -1.0)):
            products.DENSE_FORWARD = limit
            row[f"forward_{way}"] = best(lambda codes=codes: products.residual_products(codes, w, x, 1))
        row["update_sparse"] = best(
            lambda codes=codes, u=updates: _kernels.update_rows(u, *codes[:2], m, **how)
        )
        row["update_dense"] = best(dense_update)
        rows.append(row)
        keep("crossover", rows)

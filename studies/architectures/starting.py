"""Dead latents with and without a remedy, and where the run of a penalty begins."""

from __future__ import annotations

import numpy as np
from common import PLANTED, RATE, fit, keep, world_of

import sparse_sae
from sparse_sae import L1, Gated, JumpReLU, Resampling, TopK
from sparse_sae.architectures.penalty import Penalised
from sparse_sae.data.opening import open_source
from sparse_sae.data.store import ActivationStore
from sparse_sae.training.config import TrainConfig
from sparse_sae.training.run import Run


class AuxKWithReLU(TopK):
    """AuxK as published: dead latents whose pre-activation is negative model nothing, and learn nothing."""

    def _select_with_dead(self, params, batch, k):
        codes, dead_codes = super()._select_with_dead(params, batch, k)
        return codes, dead_codes and dead_codes.where(dead_codes.values > 0)


def dead(_):
    """Half of the dictionary cannot fire at the start: what lives after the run?"""
    _, x, held_out, _ = world_of()
    none = TopK(k=16, aux_k=0)
    remedies = {
        "none": (none, None),
        "AuxK": (TopK(k=16), None),
        "AuxK with ReLU": (AuxKWithReLU(k=16), None),
        "resampling, encoder scale 0.2": (none, Resampling()),
        "resampling, encoder scale 1": (none, Resampling(encoder_scale=1.0)),
        "L1: none": (L1(coefficient=0.1), None),
        "L1: resampling, encoder scale 0.2": (L1(coefficient=0.1), Resampling()),
        "L1: AuxK": (L1(coefficient=0.1, aux_k=None), None),
    }
    rows = []
    for name, (architecture, resampling) in remedies.items():
        for depth in (3.0, 10.0):
            config = TrainConfig(
                architecture,
                d_sae=512,
                n_tokens=200_000,
                batch_size=512,
                lr=RATE,
                dead_after=10_000,
                resampling=resampling,
                b_dec_init="mean",
            )
            run = Run.start(x[:16384], config, (128,), 1)
            run.params["b_enc"][:256] = -depth
            occasions = resampling.steps(config.steps) if resampling else {}
            for step in range(config.steps):
                if step in occasions:
                    run.resample(open_source(x), occasions[step])
                rows_now = x[np.random.default_rng([1, step]).integers(0, len(x), 512)]
                run.step(*run.transformed(rows_now))
            found = sparse_sae.evaluate(run.finished({}), held_out, num_threads=1)
            rows.append(
                {"remedy": name, "bias": -depth, "alive": float((found.density > 0).mean()), "fvu": found.fvu}
            )
            keep("dead", rows)


class DenseL1(L1):
    """L1 from half of all latents active, as published."""

    def init(self, params, x):
        Penalised.init(self, params, x)


class DenseGated(Gated):
    """Gated from half of all latents active, as published."""

    def init(self, params, x):
        super().init(params, x)
        params["b_enc"][:] = params["b_mag"][:] = 0


class SmallJumpReLU(JumpReLU):
    """The published W_enc of the tanh recipe: W_dec, d_in / d_sae times."""

    def init(self, params, x):
        super().init(params, x)
        small = params["W_dec"].dtype.type(3**-0.5 * x.shape[1] / len(params["W_enc"]))
        params["W_enc"] *= small
        params["b_enc"][:] = 1.0 + small * (params["b_enc"] - 1.0)  # as many active as before


def starts(options):
    """Where a penalty's run begins: as published, and as here; with a store, on its rows too."""
    tanh = {"recipe": "tanh", "target_l0": 16}
    _, x, held_out, _ = world_of()
    where = {
        "L1, free norms": (DenseL1(target_l0=16), L1(target_l0=16)),
        "Gated": (DenseGated(target_l0=16), Gated(target_l0=16)),
        "JumpReLU (tanh)": (SmallJumpReLU(**tanh), JumpReLU(**tanh)),
    }
    pairs = [(name, "planted", pair, (x, held_out), PLANTED) for name, pair in where.items()]
    if options.store:
        train, held = ActivationStore(options.store).split(0.1)
        tanh["target_l0"] = 32
        pair, how = (SmallJumpReLU(**tanh), JumpReLU(**tanh)), {"d_sae": 4608, "n_tokens": 100_000}
        pairs.append(("JumpReLU (tanh)", "real", pair, (train.rows(), held.rows()[:8192]), how))
    rows = []
    for name, data, pair, given, how in pairs:
        found = [fit(*given, architecture, **how) for architecture in pair]
        rows.append({"architecture": name, "data": data, "published": found[0], "here": found[1]})
        keep("starts", rows)

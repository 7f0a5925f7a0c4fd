"""Whether a checkpoint is that of the run which is asked for, what it must hold, and whether the run may be longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae._io.files import FormatError
from sparse_sae.training import checkpoint
from sparse_sae.training.config import TrainConfig


def earlier_config(directory: Path, state: dict[str, Any]) -> TrainConfig:
    """What the run of a checkpoint was asked for, with its defaults filled in."""
    try:
        return TrainConfig.from_dict(state["config"])
    except (TypeError, ValueError, NotImplementedError) as error:
        raise FormatError(
            f"resume: {directory / checkpoint.NAME} is not a complete checkpoint (config: {error}); start the run anew"
        ) from None


def check_same_run(
    directory: Path,
    state: dict[str, Any],
    was: TrainConfig,
    now: TrainConfig,
    widths: tuple[int, ...],
    data: str,
) -> None:
    """Raise a ValueError where the run of a checkpoint was another one than is asked for now.

    Args:
        now: what is asked for, filled in from `was`. data: `fingerprint` of what the run is to go on with.
    """
    old, new = was.settings(), now.settings()
    changed = [f"{key}={old[key]!r}" for key in new if old[key] != new[key] and key != "n_tokens"]
    if tuple(state["widths"]) != widths:
        changed.append(f"data of widths {state['widths']}")
    if changed:
        raise ValueError(
            f"resume: the run in {directory} had {', '.join(changed)}; pass the same, or another out"
        )
    if state["data"] != data:
        raise ValueError(
            f"data: other rows than those the run in {directory} was trained on; pass the same data, or another out"
        )
    if was.n_tokens == now.n_tokens:
        return
    done = state["tokens"] // was.rows
    why = why_not_longer(was, now, done) if done <= now.steps else f"{done} steps are done"
    if why is not None:
        raise ValueError(
            f"n_tokens: got {now.n_tokens}, and the run in {directory} was begun with {was.n_tokens}, which cannot be "
            f"changed now: {why}. Start a run of {now.n_tokens} with another out, or with overwrite=True"
        )


def why_not_longer(was: TrainConfig, now: TrainConfig, done: int) -> str | None:
    """Why a run cannot go on with another n_tokens; None where nothing that it did would have to be undone.

    The learning rate, penalties, annealing and resampling follow shares of a run. So it can be made longer or
    shorter while the rate is at its highest, before and after the change, and nothing else is on its way.
    """
    if now.resampling is not None:
        return "latents are resampled at shares of the run"
    share = max(now.architecture.settled, now.warmup)
    if done < share * max(now.steps, was.steps):
        return (
            f"after step {done} of {now.steps}, what rises over the first {share:g} of the run is under way"
        )
    for config in (was, now):
        if done and config.plan.at(done - 1, config.steps) < config.plan.lr:
            return (
                f"by step {done} of {config.steps} the learning rate had begun to fall "
                f"(schedule={config.schedule!r}, decay={config.decay:g}); runs with schedule='constant' can be extended"
            )
    return None


def check_contents(
    file: Path,
    groups: dict[str, dict[str, Array]],
    state: dict[str, Any],
    was: TrainConfig,
    widths: tuple[int, ...],
) -> None:
    """Raise a FormatError unless a checkpoint has the names, shapes, dtypes and counts of its own run."""

    def expect(condition: bool, field: str, got: Any, expected: str) -> None:
        if not condition:
            raise FormatError(f"resume: {file}: {field} is {got}, expected {expected}; start the run anew")

    shapes = parameter_shapes(was, widths)
    for group in ("param", "m", "v"):
        found = {name: (value.shape, str(value.dtype)) for name, value in groups[group].items()}
        for name in sorted({*shapes, *found}):
            wanted = (shapes[name], was.dtype) if name in shapes else None
            expect(found.get(name) == wanted, f"{group}.{name}", found.get(name), str(wanted))
    fired = groups["counter"]["since_fired"]
    got = (fired.shape, str(fired.dtype))
    expect(got == ((was.d_sae,), "int64"), "counter.since_fired", got, str(((was.d_sae,), "int64")))
    tokens, updates = state["tokens"], state["adam_step"]
    expect(tokens >= 0 and tokens % was.rows == 0, "tokens", tokens, f"a multiple of {was.rows}")
    expect(updates == tokens // was.rows, "adam_step", updates, f"tokens / batch_size = {tokens // was.rows}")
    expect(state["transforms"] == [was.normalize] * 2, "transforms", state["transforms"], was.normalize)


def parameter_shapes(config: TrainConfig, widths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of a run."""
    d_in = sum(widths) if config.coder.reads_all else widths[0]
    d_out = sum(widths) if config.coder.reads_all else sum(widths[1:])
    m = config.d_sae
    # What an architecture adds does not depend on the width of the data, so one column shows it.
    params: dict[str, Array] = {
        "W_enc": np.ones((m, 1)),
        "W_dec": np.ones((m, 1)),
        "b_enc": np.zeros(m),
        "b_dec": np.zeros(1),
    }
    config.architecture.init(params, np.ones((1, 1)))
    shapes = {name: value.shape for name, value in params.items()}
    shapes |= {"W_enc": (m, d_in), "W_dec": (m, d_out), "b_dec": (d_out,)}
    return shapes | ({"W_skip": (d_out, d_in)} if config.coder.skip else {})

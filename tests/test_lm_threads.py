"""Edits belong to the thread, task or call that made them: others on the same model do not see them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from sparse_sae.lm import choice_logprobs, read_hooks, resolve, reuse_below, steer

HOOK = "blocks.1.hook_resid_post"
IDS = torch.tensor([[5, 9, 3, 12, 7, 2]])


def generated(lm: Any, tokens: int = 12) -> list[int]:
    ids = lm.model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=tokens, do_sample=False)
    found: list[int] = ids[0].tolist()
    return found


def side_by_side(*jobs: Callable[[], Any], times: int = 4) -> list[list[Any]]:
    """Run each job `times` times in a thread of its own, all at once, with many switches between them."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> list[Any]:
        barrier.wait(timeout=60)
        return [job() for _ in range(times)]

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result(timeout=120) for future in [pool.submit(run, job) for job in jobs]]


def test_plain_and_steered_generation_at_once_give_what_each_gives_alone(tiny_lm, tiny_sae):
    def plain() -> list[int]:
        return generated(tiny_lm)

    def steered() -> list[int]:
        with steer(tiny_lm, tiny_sae, {3: 60.0}):
            return generated(tiny_lm)

    def late() -> list[int]:
        with steer(tiny_lm, tiny_sae, {3: 60.0}, positions="generated"):
            return generated(tiny_lm)

    alone = [plain(), steered(), late()]
    assert len({tuple(ids) for ids in alone}) == 3
    together = side_by_side(plain, steered, late)
    assert together == [[ids] * 4 for ids in alone]


def test_a_plain_call_inside_another_threads_context_is_plain(tiny_lm, tiny_sae):
    """The deterministic case: the other thread's context is open during the whole of this call."""
    plain = generated(tiny_lm)
    opened, done = threading.Event(), threading.Event()
    steered: list[list[int]] = []

    def other() -> None:
        with steer(tiny_lm, tiny_sae, {3: 60.0}):
            opened.set()
            assert done.wait(60)
            steered.append(generated(tiny_lm))

    thread = threading.Thread(target=other)
    thread.start()
    assert opened.wait(60)
    assert generated(tiny_lm) == plain
    done.set()
    thread.join()
    assert steered[0] != plain


def test_nested_contexts_stay_nested_beside_another_thread(tiny_lm, tiny_sae):
    def logits(*latents: int) -> Any:
        if not latents:
            return tiny_lm.model(IDS).logits.numpy()
        with steer(tiny_lm, tiny_sae, {latents[0]: 9.0}, hook=HOOK):
            return logits(*latents[1:])

    jobs = [lambda: logits(3, 9, 12), lambda: logits(9), lambda: logits()]
    alone = [job() for job in jobs]
    for result, each in zip(alone, side_by_side(*jobs, times=30), strict=True):
        assert all(np.array_equal(found, result) for found in each)


def test_reading_beside_steering_reads_the_unsteered_activation(tiny_lm, tiny_sae):
    """`read_hooks` ends its own pass early and never another's; `hook_resid_mid` keeps what each thread adds."""
    mid = resolve(tiny_lm, "blocks.1.hook_resid_mid")
    alone = read_hooks(tiny_lm, [HOOK], IDS)[HOOK].numpy()

    def read() -> Any:
        return read_hooks(tiny_lm, [HOOK], IDS)[HOOK].numpy()

    def edited() -> Any:
        with mid.attach(lambda x: x + 3.0):
            return tiny_lm.model(IDS).logits.numpy()

    expected = edited()
    reads, edits, plain = side_by_side(read, edited, lambda: tiny_lm.model(IDS).logits.numpy(), times=40)
    assert all(np.array_equal(found, alone) for found in reads)
    assert all(np.array_equal(found, expected) for found in edits)
    assert not any(np.array_equal(found, expected) for found in plain)


def test_layers_are_skipped_for_the_thread_that_asked_only(tiny_lm, tiny_sae):
    prompts = [[5, 9, 3], [4, 4, 8]]

    def experiment() -> Any:
        with reuse_below(tiny_lm, HOOK):
            plain = choice_logprobs(tiny_lm, prompts, [[7], [9]])
            with steer(tiny_lm, tiny_sae, {3: 9.0}):
                return plain, choice_logprobs(tiny_lm, prompts, [[7], [9]])

    def other() -> Any:
        with resolve(tiny_lm, "blocks.0.hook_resid_post").attach(lambda x: x * 1.5):
            return choice_logprobs(tiny_lm, prompts, [[7], [9]])

    alone = experiment(), other()
    together = side_by_side(experiment, other, experiment, times=15)
    for results, expected in zip(together, (alone[0], alone[1], alone[0]), strict=True):
        assert all(np.array_equal(found, expected) for found in results)
    assert all("forward" not in module.__dict__ for module in tiny_lm.model.modules())


def test_tasks_of_one_event_loop_do_not_share_edits(tiny_lm, tiny_sae):
    plain = generated(tiny_lm)

    async def steered() -> list[int]:
        with steer(tiny_lm, tiny_sae, {3: 60.0}):
            await asyncio.sleep(0.01)  # the plain task runs here
            return await asyncio.to_thread(generated, tiny_lm)  # a copied context: still steered

    async def both() -> list[list[int]]:
        async def unsteered() -> list[int]:
            await asyncio.sleep(0.001)
            return generated(tiny_lm)

        return list(await asyncio.gather(steered(), unsteered()))

    one, other = asyncio.run(both())
    assert other == plain
    assert one != plain


def test_a_thread_that_was_not_given_the_context_is_warned_about(tiny_lm, tiny_sae):
    plain = generated(tiny_lm)
    found: list[list[int]] = []

    def run() -> None:
        found.append(generated(tiny_lm))

    def steered_around_another_thread() -> None:
        with steer(tiny_lm, tiny_sae, {3: 60.0}):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()

    with pytest.warns(UserWarning, match=r"belongs to the thread .*copy_context"):
        steered_around_another_thread()
    assert found[-1] == plain
    with warnings.catch_warnings(), steer(tiny_lm, tiny_sae, {3: 60.0}):
        warnings.simplefilter("error")
        thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
        thread.start()
        thread.join()
    assert found[-1] != plain

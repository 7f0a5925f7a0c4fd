"""The engine seam: a model written in NumPy, without torch modules, is captured from, steered and generated with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparse_sae import L1, SAE
from sparse_sae.lm import (
    Engine,
    Transformers,
    capture,
    explain,
    generate,
    reconstruct,
    steer,
    steer_direction,
    stream,
)
from sparse_sae.lm.model.engine import Pass, engine_of

D, VOCABULARY, LAYERS = 6, 34, 3
HOOK = "blocks.1.hook_resid_post"


@dataclass
class NumpyPoint:
    name: str
    layer: int | None
    edits: list[Any] = field(default_factory=list)

    @contextmanager
    def attach(self, fn: Any) -> Iterator[None]:
        self.edits.append(fn)
        yield
        self.edits.remove(fn)


class NumpyEngine:
    """Layers that add a tanh of the running mean; one token a pass after the prompt, as runtimes with a cache do."""

    compute_dtype, max_context, name = "float32", 256, "numpy"

    def __init__(self, tokenizer: Any) -> None:
        rng = np.random.default_rng(0)
        self.tokenizer = tokenizer
        self.embedding = rng.standard_normal((VOCABULARY, D)).astype(np.float32)
        self.layers = rng.standard_normal((LAYERS, D, D)).astype(np.float32)
        self.points = {
            f"blocks.{i}.hook_resid_post": NumpyPoint(f"blocks.{i}.hook_resid_post", i) for i in range(LAYERS)
        }
        self.followers: list[Callable[[Pass], None]] = []

    def point(self, hook: str) -> NumpyPoint:
        if hook not in self.points:
            raise ValueError(f"hook: got {hook!r}, expected one of {', '.join(self.points)}")
        return self.points[hook]

    def width(self, point: Any) -> int:
        return D

    def read(
        self, hooks: Sequence[str], input_ids: Any, attention_mask: Any = None
    ) -> dict[str, torch.Tensor]:
        seen, _ = self._forward(input_ids.numpy(), None)
        return {hook: torch.from_numpy(seen[hook]) for hook in hooks}

    @contextmanager
    def follow(self, begin: Callable[[Pass], None]) -> Iterator[None]:
        self.followers.append(begin)
        yield
        self.followers.remove(begin)

    def generate(self, input_ids: Sequence[int], max_new_tokens: int) -> list[int]:
        cache: list[Any] = [(0, np.zeros(D, np.float32))] * LAYERS
        ids, new = np.array([input_ids]), list[int]()
        while len(new) < max_new_tokens:
            _, x = self._forward(ids, cache)
            new.append(int((x[0, -1] @ self.embedding.T).argmax()))
            ids = np.array([[new[-1]]])
        return new

    def _forward(self, ids: Any, cache: list[Any] | None) -> tuple[dict[str, Any], Any]:
        start = 0 if cache is None else cache[0][0]
        for begin in self.followers:
            begin(Pass(start, ids.shape[1], cache is not None))
        x, seen = self.embedding[ids], {}
        for i, point in enumerate(self.points.values()):
            n, total = (0, np.zeros(D, np.float32)) if cache is None else cache[i]
            sums = total + x.cumsum(1)
            means = sums / np.arange(n + 1, n + 1 + ids.shape[1], dtype=np.float32)[:, None]
            if cache is not None:
                cache[i] = (n + ids.shape[1], sums[0, -1])
            x = x + np.tanh(means @ self.layers[i])
            for edit in point.edits:
                new = edit(torch.from_numpy(x))
                x = x if new is None else new.numpy()
            seen[point.name] = x.copy()
        return seen, x


@pytest.fixture
def engine(tiny_tokenizer: Any) -> NumpyEngine:
    return NumpyEngine(tiny_tokenizer)


@pytest.fixture
def sae() -> SAE:
    rows = np.eye(D, dtype=np.float32)
    params = {
        "W_enc": rows,
        "W_dec": rows.copy(),
        "b_enc": np.zeros(D, np.float32),
        "b_dec": np.zeros(D, np.float32),
    }
    return SAE.from_rows(params, L1(), metadata={"model_name": "numpy", "hook_name": HOOK})


TEXTS = ["the parcel is late and we are sorry", "can you refund my money", "the order is approved"] * 3


def test_both_are_engines(engine: NumpyEngine, tiny_lm: Any) -> None:
    assert isinstance(engine, Engine)
    assert engine_of(engine) is engine
    assert isinstance(engine_of(tiny_lm), Engine)
    assert engine_of(tiny_lm).name == "tiny"
    with pytest.raises(TypeError, match=r"model: got str, expected .* lacks name, tokenizer"):
        engine_of("gpt2")  # type: ignore[arg-type]


def test_capture_and_stream(engine: NumpyEngine, tmp_path: Path) -> None:
    store = capture(engine, TEXTS, HOOK, tmp_path / "acts", pack=False, dtype="float32")
    ids = torch.tensor([engine.tokenizer(TEXTS[0])["input_ids"]])
    expected = engine.read([HOOK], ids)[HOOK][0, 1:]  # first positions are left out
    np.testing.assert_array_equal(store.rows(slice(0, len(expected))), expected)
    assert store.d_in == D
    rows = np.concatenate(list(stream(engine, TEXTS, HOOK, pack=False)))
    np.testing.assert_array_equal(np.sort(rows, 0), np.sort(store.rows(slice(0, len(store))), 0))
    with pytest.raises(ValueError, match="compute_dtype: got 'bfloat16', expected 'auto' or 'float32'"):
        capture(engine, TEXTS, HOOK, tmp_path / "other", compute_dtype="bfloat16")
    with pytest.raises(ValueError, match="expected one of blocks"):
        capture(engine, TEXTS, "blocks.9.hook_resid_post", tmp_path / "other")
    with pytest.raises(ValueError, match="context: got 257, expected from 2 to the model's 256"):
        capture(engine, TEXTS, HOOK, tmp_path / "other", context=257)


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_steering_a_generation(engine: NumpyEngine, sae: SAE, positions: Any) -> None:
    """The edit reaches the positions asked for, and no others, through a prompt and five passes of one token."""
    seen: list[np.ndarray] = []
    unsteered = []
    with engine.points[HOOK].attach(lambda x: unsteered.append(x.numpy().copy())):
        before = engine.generate([3, 4, 5], 5)
    with (
        steer(engine, sae, {2: 50.0}, positions=positions),
        engine.points[HOOK].attach(lambda x: seen.append(x.numpy().copy())),
    ):
        after = engine.generate([3, 4, 5], 5)
    assert [x.shape[1] for x in seen] == [3, 1, 1, 1, 1]
    changed = [bool((x[..., 2] > 40).all()) for x in seen]
    assert (
        changed
        == {"all": [True] * 5, "prompt": [True] + [False] * 4, "generated": [False] + [True] * 4}[positions]
    )
    assert (after == before) is False or positions == "generated"
    assert engine.generate([3, 4, 5], 5) == before
    if positions != "generated":
        np.testing.assert_allclose(seen[0] - unsteered[0], np.eye(D, dtype=np.float32)[2] * 50 + 0 * seen[0])


def test_directions_modes_and_reconstruction(engine: NumpyEngine, sae: SAE) -> None:
    ids = torch.tensor([[3, 4, 5, 6]])
    x = engine.read([HOOK], ids)[HOOK].numpy()
    with steer(engine, sae, [1, 4], "ablate"):
        ablated = engine.read([HOOK], ids)[HOOK].numpy()
    np.testing.assert_array_equal(ablated[..., [1, 4]], np.minimum(x[..., [1, 4]], 0))
    with steer_direction(engine, HOOK, np.eye(D)[0], 1.0, "orthogonal"):
        assert np.abs(engine.read([HOOK], ids)[HOOK].numpy()[..., 0]).max() < 1e-6
    with reconstruct(engine, sae):
        np.testing.assert_array_equal(engine.read([HOOK], ids)[HOOK].numpy(), np.maximum(x, 0))
    with pytest.warns(UserWarning, match="its latents mean nothing elsewhere"):
        steer(engine, sae, {0: 1.0}, hook="blocks.0.hook_resid_post")


def test_generate(engine: NumpyEngine, sae: SAE, tiny_lm: Any) -> None:
    words = engine.tokenizer
    assert generate(engine, [3, 4, 5], max_new_tokens=4) == words.decode(engine.generate([3, 4, 5], 4))
    assert generate(engine, "the parcel", max_new_tokens=4) == generate(engine, [2, 4], max_new_tokens=4)
    ids = torch.tensor([[3, 4, 5]])
    expected = tiny_lm.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
    )
    assert generate(tiny_lm, [3, 4, 5], max_new_tokens=6) == words.decode(
        expected[0, 3:], skip_special_tokens=True
    )
    with pytest.raises(ValueError, match="max_new_tokens: got 0, expected at least 1"):
        generate(engine, "the", max_new_tokens=0)
    with pytest.raises(ValueError, match="tokenizer: got none"):
        generate(tiny_lm.model, [3, 4])


def test_a_transformers_model_says_what_its_passes_read(tiny_lm: Any) -> None:
    passes: list[Pass] = []
    own = Transformers(tiny_lm.model, tiny_lm.tokenizer, "tiny")
    with own.follow(passes.append):
        own.generate([3, 4, 5], 3)
        own.read([HOOK], torch.tensor([[3, 4]]))
    assert passes == [Pass(0, 3, True), Pass(3, 1, True), Pass(4, 1, True), Pass(0, 2, False)]
    own.generate([3], 1)
    assert len(passes) == 4


def test_what_needs_gradients_says_so(engine: NumpyEngine, sae: SAE) -> None:
    with pytest.raises(TypeError, match=r"model: got NumpyEngine, expected .* gradients"):
        explain(engine, sae, "the parcel", 5)  # type: ignore[arg-type]

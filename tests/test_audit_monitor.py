"""Watch-lists, and monitors that see every token and change none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparse_sae.architectures import L1, AbsTopK, Gated, JumpReLU, TopK
from sparse_sae.audit import GenerationStopped, Monitor, Steer, Watch, WatchList, monitor
from sparse_sae.sae import SAE

HOOK = "blocks.1.hook_resid_post"
RNG = np.random.default_rng(0)


def sae_of(architecture: Any, d: int = 32, m: int = 64) -> SAE:
    rng = np.random.default_rng(1)
    params = {
        "W_enc": rng.standard_normal((m, d)),
        "W_dec": rng.standard_normal((m, d)),
        "b_enc": 0.1 * rng.standard_normal(m),
        "b_dec": 0.1 * rng.standard_normal(d),
    }
    params |= {name: 0.5 + rng.random(m) for name in architecture.activation.needs}
    return SAE.from_rows(
        {name: value.astype(np.float32) for name, value in params.items()},
        architecture,
        metadata={"model_name": "tiny", "hook_name": HOOK},
    )


def latents(sae: SAE, numbers: list[int], threshold: float = 2.0, **more: Any) -> WatchList:
    return WatchList.of(sae, [Watch(f"l{j}", threshold, "a test", latent=j) for j in numbers], **more)


def direction(vector: Any, threshold: float = 0.5, name: str = "d", **more: Any) -> WatchList:
    return WatchList([Watch(name, threshold, "a test", direction=vector)], hook=HOOK, **more)


def test_a_watch_list_comes_back_and_a_changed_one_does_not(tmp_path: Path) -> None:
    sae = sae_of(JumpReLU())
    watch = latents(sae, [3, 1]).revised([Watch("n", 1.5, "w", direction=RNG.standard_normal(32).tolist())])
    watch.save(tmp_path / "w.json")
    again = WatchList.load(tmp_path / "w.json")
    assert again == watch and again.revision == 2 and again.sha256 == watch.sha256
    text = (tmp_path / "w.json").read_text()
    (tmp_path / "w.json").write_text(text.replace("1.5", "1.25"))
    with pytest.raises(ValueError, match="changed after it was written"):
        WatchList.load(tmp_path / "w.json")
    for damaged in ({}, {**json.loads(text), "watches": [{"name": 3}]}, {**json.loads(text), "more": 1}):
        (tmp_path / "w.json").write_text(json.dumps(damaged))
        with pytest.raises(ValueError, match=r"w\.json"):
            WatchList.load(tmp_path / "w.json")


def test_what_a_watch_list_refuses() -> None:
    sae = sae_of(JumpReLU())
    with pytest.raises(ValueError, match="latent 99, expected 0 to d_sae - 1 = 63"):
        latents(sae, [99])
    with pytest.raises(ValueError, match="occur more than once"):
        latents(sae, [3, 3])
    for wrong in ({}, {"latent": 1, "direction": [1.0]}, {"direction": [0.0]}, {"direction": [float("nan")]}):
        with pytest.raises(ValueError):
            Watch("a", 1.0, "b", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold"):
        Watch("a", float("nan"), "b", latent=1)
    other = sae_of(JumpReLU())
    other.params["b_enc"][0] += 1
    with pytest.raises(ValueError, match="SHA-256"):
        Monitor(latents(sae, [3]), other)
    with pytest.raises(ValueError, match="got None"):
        Monitor(latents(sae, [3]))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "architecture", [JumpReLU(), L1(), Gated(), TopK(k=8), AbsTopK(k=8)], ids=lambda a: a.name
)
def test_values_are_those_of_the_encoding(architecture: Any, exact: bool) -> None:
    sae, rows = sae_of(architecture), RNG.standard_normal((50, 32)).astype(np.float32)
    numbers = [40, 3, 17]
    m = Monitor(latents(sae, numbers, exact=exact, skip=0), sae, pooling="last")
    wanted = (sae.encode(rows)[:, numbers] if exact else sae.encode(rows, latents=numbers)).toarray()
    assert wanted.any()
    for row, expected in zip(rows, wanted, strict=True):
        m.observe(row)
        np.testing.assert_array_equal(m.pooled[0].astype(np.float32), expected)


@pytest.mark.parametrize("kind", ["latents", "directions"])
@pytest.mark.parametrize("pooling", ["max", "mean", "ema", "last"])
def test_streams_chunks_and_batches_pool_to_the_same_bits(pooling: Any, kind: str) -> None:
    sae, rows = sae_of(JumpReLU()), RNG.standard_normal((3, 40, 32)).astype(np.float32)
    watch = latents(sae, [5, 9, 60], 1.2)
    if kind == "directions":
        watch = WatchList(
            [Watch(f"d{i}", 0.3, "t", direction=v.tolist()) for i, v in enumerate(sae.rows["W_enc"][:3])],
            HOOK,
        )
    whole, stream, batch = (Monitor(watch, sae, pooling=pooling) for _ in range(3))
    for i in range(3):
        whole.observe(rows[i, :25], sequence=i)
        whole.observe(rows[i, 25:], sequence=i)
        for row in rows[i]:
            stream.observe(row, sequence=i)
    for t in range(40):
        batch.observe(np.ascontiguousarray(rows[:, t]), sequence=["a", "b", "c"])
    np.testing.assert_array_equal(whole.pooled, stream.pooled)
    np.testing.assert_array_equal(whole.pooled, batch.pooled)
    assert whole.events
    assert sorted(map(str, whole.events)) == sorted(map(str, stream.events)) == sorted(map(str, batch.events))
    judged = rows[:, 1:].reshape(-1, 32)
    values = (
        sae.encode(judged, latents=[5, 9, 60]).toarray()
        if kind == "latents"
        else judged @ sae.rows["W_enc"][:3].T
    )
    values = values.reshape(3, 39, 3)
    expected = {"max": values.max(1), "mean": values.mean(1), "last": values[:, -1]}
    if pooling in expected:
        np.testing.assert_allclose(whole.pooled, expected[pooling], rtol=2e-5, atol=1e-6)


def test_raw_detects_and_the_sae_explains() -> None:
    sae, row = sae_of(JumpReLU()), RNG.standard_normal(32).astype(np.float32)
    codes = sae.encode(row[None]).toarray()[0]
    numbers = np.argsort(-codes)[:3].tolist()
    watches = [Watch("raw", 0.5, "t", direction=row.tolist(), bias=-1.0)]
    watches += [Watch(f"l{j}", 1e9, "t", latent=j) for j in sorted(numbers)]
    m = Monitor(WatchList.of(sae, watches, skip=0), sae)
    assert m.detect == "cascade"
    (event,) = m.observe(row)
    assert event.explained == tuple((f"l{j}", float(codes[j])) for j in numbers)
    assert event.value == pytest.approx(float(row @ row) - 1)
    with pytest.raises(ValueError, match="needs latents"):
        Monitor(direction([1.0, 0.0]), detect="both")


def test_bad_rows_are_named() -> None:
    m = Monitor(direction(np.ones(32)))
    bad = np.ones((4, 32), np.float32)
    bad[2, 5] = np.nan
    with pytest.raises(ValueError, match="row 2 holds a NaN"):
        m.observe(bad)
    with pytest.raises(ValueError, match=r"expected \(n, d_in = 32\)"):
        m.observe(np.ones((4, 31), np.float32))
    with pytest.raises(ValueError, match="tokens: got 3"):
        m.observe(np.ones((4, 32), np.float32), tokens=[1, 2, 3])
    with pytest.raises(ValueError, match="pooling"):
        Monitor(direction(np.ones(32)), pooling="median")  # type: ignore[arg-type]


def ids_of(lm: Any, *texts: str) -> Any:
    lm.tokenizer.padding_side = "left"
    return lm.tokenizer(list(texts), return_tensors="pt", padding=True)


def recomputed(lm: Any, sae: SAE, numbers: list[int], ids: list[int]) -> Any:
    from sparse_sae.lm import read_hooks

    with torch.inference_mode():
        x = read_hooks(lm, [HOOK], torch.tensor([ids]))[HOOK][0, 1:]
    return sae.encode(x, latents=numbers).toarray().max(0)


@pytest.mark.parametrize(
    "how", [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=str
)
def test_generation_is_the_same_to_the_bit_and_every_token_is_seen(tiny_lm: Any, how: dict[str, Any]) -> None:
    sae, numbers = sae_of(JumpReLU()), [3, 9, 41]
    inputs = ids_of(tiny_lm, "the parcel is late", "my money back please we can not")
    settings = {
        "max_new_tokens": 8,
        "output_logits": True,
        "return_dict_in_generate": True,
        "do_sample": False,
    }
    settings |= how
    if "num_beams" in how:
        settings["num_return_sequences"] = 3
    torch.manual_seed(0)
    plain = tiny_lm.model.generate(**inputs, **settings)
    torch.manual_seed(0)
    with monitor(tiny_lm, latents(sae, numbers, 1.5), sae) as m:
        watched = tiny_lm.model.generate(**inputs, **settings)
    assert torch.equal(plain.sequences, watched.sequences)
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, watched.logits, strict=True))
    assert not tiny_lm.model.base_model._forward_pre_hooks
    pad = tiny_lm.tokenizer.pad_token_id
    for sequence in watched.sequences.tolist():
        padding = next(i for i, token in enumerate(sequence) if token != pad)
        text = sequence[padding:-1]  # the last token was never read
        expected = recomputed(tiny_lm, sae, numbers, text)
        assert min(np.abs(row - expected).max() for row in m.pooled) < 1e-3
    for event in m.events:
        assert event.pooled >= event.value - 1e-6 > 1.4 and event.text is not None


def test_batches_and_plain_passes_are_new_sequences(tiny_lm: Any) -> None:
    sae, numbers = sae_of(JumpReLU()), [3, 9, 41]
    texts = ["the parcel is late", "my money back please we can not", "sorry no"]
    with monitor(tiny_lm, latents(sae, numbers, 1.5), sae) as m, torch.inference_mode():
        tiny_lm.model(**ids_of(tiny_lm, *texts[:2]))
        tiny_lm.model(**ids_of(tiny_lm, texts[2]))
    for i, text in enumerate(texts):
        ids = tiny_lm.tokenizer(text)["input_ids"]
        np.testing.assert_allclose(m.pooled[i], recomputed(tiny_lm, sae, numbers, ids), atol=1e-3)
        for event in (e for e in m.events if e.sequence == i):
            assert tiny_lm.tokenizer.decode([ids[event.position]]) == event.text
    assert m.events and m.tokens == sum(len(text.split()) for text in texts)


@pytest.fixture
def ending_lm(tiny_lm: Any) -> Any:
    """The tiny model with an end-of-text token, which it does not happen to generate in these tests."""
    tiny_lm.model.generation_config.eos_token_id = 33
    yield tiny_lm
    tiny_lm.model.generation_config.eos_token_id = None


def test_a_callback_stops_a_sequence(ending_lm: Any) -> None:
    inputs = ids_of(ending_lm, "the parcel is late", "my money back please")
    free = ending_lm.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert not (free == 33).any()
    loud = direction(np.eye(32)[0], -1e6)  # every token is above it: the first judged one is an event

    def answer(event: Any) -> Any:
        return "stop" if event.sequence == 1 else None

    settings = {"max_new_tokens": 12, "do_sample": False}
    with monitor(ending_lm, loud, on_event=answer) as m:
        out = ending_lm.model.generate(**inputs, **settings, stopping_criteria=[m.stopping])
    assert torch.equal(out[0], free[0])
    start = inputs["input_ids"].shape[1] + 1
    assert out[1, start:].eq(ending_lm.tokenizer.pad_token_id).all() and out.shape == free.shape
    assert m._state.count[1] == 4  # nothing of the padding
    with (
        pytest.raises(GenerationStopped, match="stopping_criteria"),
        monitor(ending_lm, loud, on_event=answer),
    ):
        ending_lm.model.generate(**inputs, **settings)


def test_a_callback_steers_from_its_token_on(tiny_lm: Any) -> None:
    from sparse_sae.lm import steer_direction

    inputs = ids_of(tiny_lm, "the parcel is late", "my money back please we can not")
    vector = RNG.standard_normal(32).astype(np.float32)
    settings = {
        "max_new_tokens": 6,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    loud = direction(np.eye(32)[0], -1e6, skip=2)
    with monitor(tiny_lm, loud, on_event=lambda e: Steer(vector, 3.0)):
        ours = tiny_lm.model.generate(**inputs, **settings)
    width = inputs["input_ids"].shape[1]
    short = 4
    for row, start in ((0, width - short + 2), (1, 2)):  # by the row's own first judged token
        with steer_direction(tiny_lm, HOOK, vector, 3.0, positions=slice(start, None)):
            theirs = tiny_lm.model.generate(**inputs, **settings)
        assert torch.equal(ours.sequences[row], theirs.sequences[row])
        assert all(
            torch.allclose(a[row], b[row], atol=1e-4) for a, b in zip(ours.logits, theirs.logits, strict=True)
        )
    with pytest.raises(TypeError, match="on_event"), monitor(tiny_lm, loud, on_event=lambda e: 3):  # type: ignore[arg-type,return-value]
        tiny_lm.model.generate(**inputs, **settings)


def test_ended_texts_are_not_judged(ending_lm: Any) -> None:
    """A row that has ended is padded while others go on: what is padded is not seen."""
    inputs = ids_of(ending_lm, "the parcel is late", "my money back please we can not")
    width = inputs["input_ids"].shape[1]
    free = ending_lm.model.generate(**inputs, max_new_tokens=10, do_sample=False)[:, width:].tolist()
    end = next(token for token in free[0][1:4] if token not in free[1])
    ending_lm.model.generation_config.eos_token_id = end
    with monitor(ending_lm, direction(np.eye(32)[0], 1e6)) as m:
        ending_lm.model.generate(**inputs, max_new_tokens=10, do_sample=False)
    assert m._state.count.tolist()[:2] == [4 + free[0].index(end) + 1, 7 + 9]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", ["latents", "directions"])
def test_one_row_at_a_time_says_what_many_do_and_refuses_what_is_not_finite(dtype: Any, kind: str) -> None:
    """Single rows are read without a look for NaN: their values tell of it, whatever the sign of the weights."""
    from sparse_sae.architectures import JumpReLU
    from sparse_sae.sae import SAE

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((6, 8)).astype(np.float32)
    rows[0, 3] = 0.0
    params = {"W_enc": rows, "W_dec": rows.copy(), "threshold": np.full(6, 0.5, np.float32)}
    params |= {"b_enc": np.zeros(6, np.float32), "b_dec": rng.standard_normal(8).astype(np.float32)}
    sae = SAE.from_rows(params, JumpReLU(), metadata={"hook_name": "x"})
    if kind == "latents":
        watch = WatchList.of(sae, [Watch(f"l{j}", 0.7, "test", latent=j) for j in (4, 0, 2)], skip=0)
    else:
        watch = WatchList(
            [Watch(f"d{j}", 0.7, "test", direction=rows[j].tolist()) for j in range(3)], "x", skip=0
        )
    x = rng.standard_normal((40, 8)).astype(dtype)
    for pooling in ("max", "mean", "ema", "last"):
        single, whole = (Monitor(watch, sae, pooling=pooling) for _ in range(2))  # type: ignore[arg-type]
        for row in x:
            single.observe(row)
        whole.observe(x)
        assert (single.pooled == whole.pooled).all() and single.events == whole.events and whole.events
        before = single.pooled
        for bad in (np.nan, np.inf, -np.inf):
            for column in (3, 5):
                broken = np.zeros(8, dtype)
                broken[column] = bad
                with pytest.raises(ValueError, match="NaN or an infinity"):
                    single.observe(broken)
        assert (single.pooled == before).all()

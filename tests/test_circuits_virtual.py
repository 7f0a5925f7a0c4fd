"""Weights without prompts, and the codes they are weighted by, against sums written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from scipy.sparse import csr_array  # noqa: E402

from sparse_sae import SAE, TopK  # noqa: E402
from sparse_sae.circuits import DictionarySet, SetCodes, encode_texts, era, neighbours, twera  # noqa: E402
from sparse_sae.circuits.virtual import virtual_weights  # noqa: E402
from sparse_sae.lm import read_hooks  # noqa: E402

torch.set_num_threads(1)
LOW, HIGH, STREAM = "blocks.0.hook_mlp_out", "blocks.2.hook_mlp_out", "blocks.1.hook_resid_post"
TEXTS = [
    "the parcel is late please",
    "my order is not available",
    "we can refund the price",
    "angry money back",
] * 3


def random_sae(seed: int, transcoder: bool) -> SAE:
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(size=(24, 32)) for name in ("W_enc", "W_dec")}
    params |= {"b_enc": np.zeros(24), "b_dec": np.zeros(32)}
    return SAE.from_rows(
        {name: value.astype(np.float32) for name, value in params.items()},
        TopK(k=4),
        apply_b_dec_to_input=not transcoder,
    )


@pytest.fixture(scope="module")
def made() -> DictionarySet:
    saes: dict[Any, SAE] = {
        (f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.hook_mlp_out"): random_sae(layer, True)
        for layer in (0, 2)
    }
    return DictionarySet({**saes, STREAM: random_sae(1, False)}, model_name="tiny")


@pytest.fixture(scope="module")
def codes(tiny_lm: Any, made: DictionarySet) -> SetCodes:
    return encode_texts(tiny_lm, made, TEXTS, pack=False, compute_dtype="float32")


@pytest.fixture
def gained(tiny_lm: Any) -> Any:
    """The model with a norm before the last MLP and the last attention that is not all ones."""
    layer = tiny_lm.model.model.layers[2]
    rng = torch.Generator().manual_seed(0)
    norms = (layer.post_attention_layernorm.weight, layer.input_layernorm.weight)
    for weight in norms:
        weight.data += 0.5 * torch.rand(weight.shape, generator=rng)
    yield tiny_lm
    for weight in norms:
        weight.data.fill_(1)


def test_codes_are_those_of_each_text_and_survive_a_file(
    tiny_lm: Any, made: DictionarySet, codes: SetCodes, tmp_path: Path
) -> None:
    for number in (0, 3):
        rows = codes.documents == number
        ids = torch.tensor([codes.tokens[rows].tolist()])
        assert tiny_lm.tokenizer.decode(ids[0]) == TEXTS[number]
        seen = read_hooks(tiny_lm, ["blocks.2.mlp.hook_in", STREAM], ids)
        for hook, read in ((HIGH, "blocks.2.mlp.hook_in"), (STREAM, STREAM)):
            expected = made[hook].sae.encode(seen[read][0].numpy()).toarray()
            expected[0] = 0
            np.testing.assert_allclose(
                codes.of(hook)[np.flatnonzero(rows)].toarray(), expected, rtol=1e-4, atol=1e-5
            )
    codes.save(tmp_path / "codes.npz")
    back = SetCodes.load(tmp_path / "codes.npz")
    assert list(back.codes) == list(made) and repr(back) == repr(codes)
    np.testing.assert_array_equal(back.of(LOW).toarray(), codes.of(LOW).toarray())
    damaged = (tmp_path / "codes.npz").read_bytes()
    (tmp_path / "codes.npz").write_bytes(damaged[: len(damaged) // 2])
    with pytest.raises(ValueError, match=r"codes\.npz: not a file of SetCodes\.save, or damaged"):
        SetCodes.load(tmp_path / "codes.npz")
    short = encode_texts(tiny_lm, made, TEXTS, pack=False, max_tokens=7, compute_dtype="float32")
    assert len(short) == 7
    with pytest.raises(ValueError, match="texts: there are none"):
        encode_texts(tiny_lm, made, [])


def test_virtual_weights_are_what_the_encoder_reads_of_a_decoder_row(
    gained: Any, made: DictionarySet
) -> None:
    gain = gained.model.model.layers[2].post_attention_layernorm.weight.numpy()
    found = virtual_weights(gained, made, LOW, HIGH)
    expected = made[LOW].sae.W_dec @ (made[HIGH].sae.W_enc * gain[:, None])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        virtual_weights(gained, made, LOW, STREAM),
        made[LOW].sae.W_dec @ made[STREAM].sae.W_enc,
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="not written before"):
        virtual_weights(gained, made, HIGH, LOW)
    with pytest.raises(ValueError, match=r"no dictionary writes 'blocks\.1\.hook_mlp_out'"):
        virtual_weights(gained, made, "blocks.1.hook_mlp_out", HIGH)


def test_expected_weights_are_the_sums_of_their_definitions(
    codes: SetCodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_sae.circuits import virtual

    monkeypatch.setattr(virtual, "_BLOCK", 5)  # several blocks, the last one not full
    a, b = codes.of(LOW).toarray().astype(np.float64), codes.of(HIGH).toarray().astype(np.float64)
    V = np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32)
    mean = b.mean(0)
    expected = np.where(mean > 0, (a.T @ b) / len(a) / np.where(mean > 0, mean, 1), 0) * V
    np.testing.assert_allclose(twera(codes.of(LOW), codes.of(HIGH), V), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        era(codes.of(LOW), codes.of(HIGH), V), a.T @ (b > 0) / len(a) * V, rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="codes of 3 tokens"):
        twera(codes.of(LOW), csr_array((3, 4)))


@pytest.mark.parametrize("kind", ["twera", "era", "virtual"])
def test_neighbours_are_the_largest_of_the_whole_matrices(
    gained: Any, made: DictionarySet, codes: SetCodes, kind: str
) -> None:
    weigh = {"twera": twera, "era": era, "virtual": lambda a, b, V: V}[kind]
    upper = {
        s: weigh(codes.of(s), codes.of(HIGH), virtual_weights(gained, made, s, HIGH)) for s in (LOW, STREAM)
    }
    latent = int(np.abs(upper[LOW]).sum(0).argmax())
    found = neighbours(gained, made, HIGH, latent, codes, kind=kind, top=5)
    every = sorted(
        ((float(w[i, latent]), s, i) for s, w in upper.items() for i in range(24)),
        key=lambda item: -abs(item[0]),
    )
    assert [(c.hook, c.latent) for c in found.upstream] == [(s, i) for _, s, i in every[:5]]
    np.testing.assert_allclose([c.weight for c in found.upstream], [w for w, *_ in every[:5]], rtol=1e-4)
    assert not found.downstream
    first = found.upstream[0]
    fires = codes.of(HIGH).toarray()[:, latent] > 0
    assert first.together == pytest.approx(
        (codes.of(first.hook).toarray()[fires, first.latent] > 0).mean(), abs=1e-6
    )
    down = neighbours(gained, made, LOW, first.latent, codes, kind=kind, top=48).downstream
    same = {(c.hook, c.latent): c.weight for c in down}
    if first.hook == LOW:
        assert same[HIGH, latent] == pytest.approx(first.weight, rel=1e-4)
    assert {c.hook for c in down} <= {STREAM, HIGH} and not neighbours(gained, made, LOW, 0, codes).upstream


def test_heads_between_carry_what_their_weights_say(gained: Any, made: DictionarySet) -> None:
    found = neighbours(gained, made, HIGH, 3, kind="virtual", top=200).heads
    c = next(c for c in found if c.hook == STREAM)
    layer, head = c.head
    assert layer == 2
    w = gained.model.model.layers[layer]
    d = torch.from_numpy(made[c.hook].sae.W_dec[c.latent].copy()) * w.input_layernorm.weight
    value = (w.self_attn.v_proj.weight @ d).unflatten(0, (2, 8))[head // 2]
    out = w.self_attn.o_proj.weight.unflatten(1, (4, 8))[:, head] @ value
    read = made[HIGH].sae.W_enc[:, 3] * w.post_attention_layernorm.weight.numpy()
    assert c.weight == pytest.approx(float(read @ out.numpy()), rel=1e-4)
    assert {c.head[0] for c in found if c.hook == LOW} == {1, 2}
    assert "through head" in str(neighbours(gained, made, HIGH, 3, kind="virtual"))


def test_bad_requests(tiny_lm: Any, made: DictionarySet) -> None:
    for given, message in (
        ({"kind": "best"}, "kind: got 'best'"),
        ({}, "codes: needed for kind 'twera'"),
        ({"kind": "virtual", "latent": 24}, "latent: got 24, expected a whole number from 0 up to 23"),
    ):
        with pytest.raises(ValueError, match=message):
            neighbours(tiny_lm, made, HIGH, given.pop("latent", 0), **given)

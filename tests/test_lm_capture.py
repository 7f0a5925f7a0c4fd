"""Capture: what is stored is what the model computed, each token once, whatever was interrupted."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from sparse_sae.data.store import ActivationStore, StoreWriter  # noqa: E402
from sparse_sae.lm import CaptureProgress, capture, stream  # noqa: E402
from sparse_sae.lm.harvest import reader as forward  # noqa: E402
from sparse_sae.lm.harvest.sequences import windows  # noqa: E402
from sparse_sae.lm.model.loading import LanguageModel  # noqa: E402

torch.set_num_threads(1)  # models this small only lose by more

HOOK = "blocks.1.hook_resid_post"
HOOKS = [HOOK, "blocks.0.mlp.hook_post"]


def tiny_llama(seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LanguageModel(transformers.LlamaForCausalLM(config).eval().requires_grad_(False), None, "tiny")


def random_texts(n: int, seed: int = 0, longest: int = 60) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, 97) for _ in range(rng.randint(1, longest))] for _ in range(n)]


class Tokenizer:
    """One token a letter; begins with a bos token if asked to."""

    eos_token_id = 2
    bos_token_id = 1

    def __init__(self, bos: bool = False) -> None:
        self.bos = bos

    def __call__(self, text: Any, add_special_tokens: bool = True) -> dict[str, Any]:
        if not isinstance(text, str):
            return {"input_ids": [self(part, add_special_tokens)["input_ids"] for part in text]}
        head = [1] if self.bos and add_special_tokens else []
        return {"input_ids": head + [3 + ord(letter) % 90 for letter in text]}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny_llama()


OPTIONS: dict[str, Any] = {"context": 16, "batch_tokens": 64, "dtype": "float32", "compute_dtype": "float32"}


def test_unpacked_rows_are_what_the_model_computes_for_each_text_alone(
    model: LanguageModel, tmp_path: Path
) -> None:
    texts = random_texts(30, longest=16)
    store = capture(model, texts, HOOK, tmp_path / "s", pack=False, **OPTIONS)
    everything = store.select(exclude=())
    assert everything.documents.tolist() == sorted(everything.documents)
    assert len(everything) == sum(map(len, texts))
    documents, positions, rows = everything.documents, everything.positions, everything.rows()
    for number, text in enumerate(texts):
        mine = documents == number
        assert everything.tokens[mine].tolist() == text
        assert positions[mine].tolist() == list(range(len(text)))
        with torch.inference_mode():
            hidden = model.model(torch.tensor([text]), output_hidden_states=True).hidden_states[2][0]
        np.testing.assert_allclose(rows[mine], hidden.numpy(), atol=1e-5)
    assert store.excluded["first"] == 30
    assert store.positions.min() == 1


def test_packed_rows_are_what_the_model_computes_for_full_contexts(
    model: LanguageModel, tmp_path: Path
) -> None:
    texts = random_texts(30)
    flat = [token for text in texts for token in text]
    store = capture(model, texts, HOOK, tmp_path / "s", **OPTIONS).select(exclude=())
    assert store.tokens.tolist() == flat
    numbers = [number for number, text in enumerate(texts) for _ in text]
    assert store.documents.tolist() == numbers
    assert store.positions.tolist() == [i % 16 for i in range(len(flat))]
    rows = store.rows()
    for at in range(0, len(flat), 16):
        with torch.inference_mode():
            ids = torch.tensor([flat[at : at + 16]])
            hidden = model.model(ids, output_hidden_states=True).hidden_states[2][0]
        np.testing.assert_allclose(rows[at : at + 16], hidden.numpy(), atol=1e-5)


def test_several_hook_points_in_one_pass(model: LanguageModel, tmp_path: Path) -> None:
    hooks = ["blocks.0.hook_mlp_out", HOOK, "blocks.1.mlp.hook_post"]
    calls = []
    handle = model.model.model.layers[2].register_forward_hook(lambda *_: calls.append(1))
    layers = []
    other = model.model.model.layers[0].register_forward_hook(lambda *_: layers.append(1))
    try:
        stores = capture(model, random_texts(20), hooks, tmp_path / "s", **OPTIONS)
    finally:
        handle.remove()
        other.remove()
    assert calls == []  # the layer above the last hook point does not run
    n_batches = -(-sum(map(len, random_texts(20))) // 64)
    assert len(layers) == n_batches + 1  # one pass, and one look at the widths
    assert list(stores) == hooks
    assert [store.d_in for store in stores.values()] == [16, 16, 24]
    single = capture(model, random_texts(20), HOOK, tmp_path / "one", **OPTIONS)
    np.testing.assert_array_equal(single.rows(), stores[HOOK].rows())
    assert ActivationStore(tmp_path / "s", hook=HOOK).hook == HOOK
    assert len({len(store.select(exclude=())) for store in stores.values()}) == 1


def test_tokenizer_packing_and_bos(tmp_path: Path) -> None:
    texts = ["abcdefg", "", "hij", "k" * 20]

    def tokens(pack: bool, bos: bool) -> list[list[int]]:
        tokenizer = Tokenizer(bos)
        head = tokenizer.bos_token_id if bos else None
        source = windows(texts, tokenizer, context=8, pack=pack, batch_tokens=8, bos=head)
        return [piece.tokens.tolist() for window in source for piece in window.pieces]

    a, h, k = ([3 + ord(letter) % 90 for letter in text] for text in ("abcdefg", "hij", "k"))
    flat = [*a, 2, *h, 2, *(k * 20), 2]
    assert tokens(pack=True, bos=False) == [flat[i : i + 8] for i in range(0, len(flat), 8)]
    assert tokens(pack=True, bos=True) == [[1, *flat[i : i + 7]] for i in range(0, len(flat), 7)]
    assert sorted(tokens(pack=False, bos=False)) == sorted([a, h, k * 8, k * 8, k * 4])
    assert sorted(tokens(pack=False, bos=True)) == sorted(
        [[1, *a], [1, *h], [1, *k * 7], [1, *k * 7], [1, *k * 6]]
    )
    model = LanguageModel(tiny_llama().model, Tokenizer(bos=True), "tiny")
    store = capture(model, texts, HOOK, tmp_path / "s", **OPTIONS).select(exclude=())
    assert (store.tokens[store.positions == 0] == 1).all()
    assert store.metadata["bos"] == 1


def test_batches_are_bucketed_by_length() -> None:
    texts = random_texts(400, longest=16)
    padded = 0
    kept: list[list[int]] = []
    for window in windows(texts, None, context=16, pack=False, batch_tokens=64, bos=None):
        mine: dict[int, list[int]] = {}
        for batch in window.batches():
            padded += batch.mask.size
            assert batch.mask.size <= 64
            mine |= {
                i: ids[mask].tolist() for i, ids, mask in zip(batch.which, batch.ids, batch.mask, strict=True)
            }
        kept += [mine[i] for i in sorted(mine)]
    assert kept == texts
    assert sum(map(len, texts)) / padded > 0.85


def test_max_tokens_reuse_and_extension(model: LanguageModel, tmp_path: Path) -> None:
    texts = random_texts(60)
    small = capture(model, texts, HOOK, tmp_path / "s", max_tokens=200, **OPTIONS)
    assert len(small.select(exclude=())) == 200
    before = (tmp_path / "s" / "manifest.json").read_bytes()
    capture(model, texts, HOOK, tmp_path / "s", max_tokens=150, **OPTIONS)
    assert (tmp_path / "s" / "manifest.json").read_bytes() == before  # nothing left to do
    grown = capture(model, texts, HOOK, tmp_path / "s", max_tokens=500, **OPTIONS)
    whole = capture(model, texts, HOOK, tmp_path / "w", max_tokens=500, **OPTIONS)
    assert len(grown.select(exclude=())) == 500
    np.testing.assert_array_equal(grown.positions, whole.positions)
    np.testing.assert_array_equal(grown.documents, whole.documents)
    np.testing.assert_array_equal(grown.rows(), whole.rows())
    np.testing.assert_array_equal(grown.tokens, whole.tokens)


def test_progress_is_reported(model: LanguageModel, tmp_path: Path) -> None:
    reports: list[CaptureProgress] = []
    capture(model, random_texts(30), HOOK, tmp_path / "s", max_tokens=300, progress=reports.append, **OPTIONS)
    counts = [report.tokens for report in reports]
    assert counts == sorted(set(counts))
    assert counts[-1] == 300 > counts[-2]
    assert reports[-1].max_tokens == 300
    assert all(report.tokens_per_second > 0 for report in reports)


def test_a_stream_gives_the_same_rows_mixed(model: LanguageModel, tmp_path: Path) -> None:
    texts = random_texts(200)
    store = capture(model, texts, HOOK, tmp_path / "s", **OPTIONS)
    kwargs: dict[str, Any] = {key: value for key, value in OPTIONS.items() if key != "dtype"}
    source = stream(model, texts, HOOK, buffer_bytes=4 * 16 * 1000, block_rows=100, **kwargs)
    blocks = list(source)
    assert all(0 < len(block) <= 100 for block in blocks)
    mixed, stored = np.concatenate(blocks), store.rows()
    assert source.d_in == 16
    assert source.excluded == {"first": store.excluded["first"], "massive": store.excluded["massive"]}
    assert source.tokens == store.manifest["count"]
    np.testing.assert_array_equal(
        mixed[np.lexsort(mixed.T)], stored[np.lexsort(stored.T)]
    )  # the same rows, each once
    place = {row.tobytes(): i for i, row in enumerate(stored)}
    origin = np.array([place[row.tobytes()] for row in mixed])
    assert np.abs(np.diff(origin)).mean() > 100  # neighbours leave far apart
    assert list(source) == []  # each row once
    again = stream(model, texts, HOOK, buffer_bytes=4 * 16 * 1000, block_rows=100, **kwargs)
    np.testing.assert_array_equal(mixed, np.concatenate(list(again)))
    limited = stream(model, texts, HOOK, max_tokens=500, **kwargs)
    assert sum(map(len, limited)) == 500 - limited.excluded["first"] - limited.excluded["massive"]
    assert limited.tokens == 500


def test_training_straight_from_the_model_reads_each_token_once(model: LanguageModel) -> None:
    import sparse_sae

    kwargs: dict[str, Any] = {key: value for key, value in OPTIONS.items() if key != "dtype"}
    texts = random_texts(1000)
    source = stream(model, texts, HOOK, buffer_bytes=4 * 16 * 1000, **kwargs)
    result = sparse_sae.train(source, sparse_sae.TopK(k=4), d_sae=32, n_tokens=8000, batch_size=256, seed=0)
    assert result.sae.d_in == 16
    assert sum(map(len, texts)) > source.tokens > 8000  # it stopped reading when it had enough
    held_out = np.concatenate(list(stream(model, random_texts(60, seed=1), HOOK, **kwargs)))
    assert sparse_sae.evaluate(result.sae, held_out).fvu < 0.6


def test_massive_activations_are_left_out_of_stores_and_streams(tmp_path: Path) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.model.embed_tokens.weight[50] *= 3000  # this token is one
    texts = random_texts(40)
    n = sum(text.count(50) for text in texts)
    store = capture(model, texts, HOOK, tmp_path / "s", **OPTIONS)
    firsts = sum(
        1 for at, token in enumerate(t for text in texts for t in text) if at % 16 == 0 and token == 50
    )
    assert store.excluded["massive"] == n - firsts > 5
    assert 50 not in store.tokens
    for buffer_bytes in (4 * 16 * 200, 1 << 20):  # filled many times, and never full
        source = stream(
            model,
            texts,
            HOOK,
            context=16,
            batch_tokens=64,
            compute_dtype="float32",
            buffer_bytes=buffer_bytes,
        )
        rows = np.concatenate(list(source))
        assert source.excluded["massive"] == n - firsts
        assert len(rows) == len(store)


@pytest.mark.parametrize("faster", ["float32", "bfloat16"])
def test_the_compute_dtype_is_measured_and_kept(
    faster: str, model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(measured: LanguageModel, *_: object, **__: object) -> float:
        return 1.0 if (measured.dtype == torch.bfloat16) == (faster == "bfloat16") else 1.5

    monkeypatch.setattr(forward, "_seconds", seconds)
    monkeypatch.setattr(forward, "_product_seconds", lambda _, dtype: float(dtype == torch.float32))
    assert forward.fastest_compute_dtype(model, [HOOK]) == faster
    options = {**OPTIONS, "compute_dtype": "auto"}
    store = capture(model, random_texts(30), HOOK, tmp_path / "s", max_tokens=100, **options)
    assert store.metadata["compute_dtype"] == faster
    monkeypatch.setattr(forward, "fastest_compute_dtype", lambda *_, **__: pytest.fail("measured again"))
    grown = capture(model, random_texts(30), HOOK, tmp_path / "s", **options)
    exact = capture(model, random_texts(30), HOOK, tmp_path / "f", **OPTIONS)
    error = np.abs(grown.rows() - exact.rows()).max()
    assert (error == 0) == (faster == "float32")
    assert error < 0.05 * np.abs(exact.rows()).max()
    assert model.dtype == torch.float32


def test_a_real_measurement_gives_an_answer(model: LanguageModel) -> None:
    assert forward.fastest_compute_dtype(model, [HOOK], tokens=8) in ("float32", "bfloat16")
    half = forward.in_dtype(model, torch.bfloat16)
    assert forward.fastest_compute_dtype(half, [HOOK]) == "bfloat16"


def test_where_bfloat16_has_no_instructions_the_model_is_not_even_tried(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "_product_seconds", lambda _, dtype: float(dtype == torch.bfloat16))
    monkeypatch.setattr(forward, "_seconds", lambda *_, **__: pytest.fail("tried"))
    assert forward.fastest_compute_dtype(model, [HOOK]) == "float32"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"context": 65}, "context: got 65, expected from 2 to the model's 64 tokens"),
        ({"context": 1}, "context: got 1"),
        ({"max_tokens": 0}, "max_tokens: got 0, expected at least 1"),
        ({"batch_tokens": -5}, "batch_tokens: got -5, expected at least 1"),
        ({"shard_bytes": 0}, "shard_bytes: got 0"),
        ({"texts": [[5, 97, 3]]}, r"input_ids: token 97 of row 0 at position 1, expected 0 to 96"),
        ({"texts": [[5, -1]]}, "token -1 of row 0"),
        ({"compute_dtype": "int8"}, "compute_dtype: got 'int8'"),
        ({"hooks": []}, "hooks: got"),
        ({"hooks": [HOOK, HOOK]}, "hooks: got"),
        ({"hooks": "blocks.9.hook_resid_post"}, "layers 0 to 2"),
        ({"texts": []}, "texts: there are none"),
        ({"texts": ["a"]}, "need a tokenizer"),
        ({"dtype": "float64"}, "dtype: got .*, expected one of"),
    ],
)
def test_bad_arguments_are_refused(
    change: dict[str, Any], match: str, model: LanguageModel, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"texts": random_texts(3), "hooks": HOOK, **OPTIONS, **change}
    with pytest.raises(ValueError, match=match):
        capture(model, arguments.pop("texts"), arguments.pop("hooks"), tmp_path / "s", **arguments)


def test_one_string_and_a_bare_model_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    """A string would be read as texts of one letter each."""
    lm = LanguageModel(model.model, Tokenizer(), "t")

    def captured(model: Any, texts: Any) -> Any:
        return capture(model, texts, HOOK, tmp_path / "s", context=16)

    def streamed(model: Any, texts: Any) -> Any:
        return next(stream(model, texts, HOOK, context=16))

    for read in (captured, streamed):
        with pytest.raises(TypeError, match=r"texts: got one str, .*give \[text\]"):
            read(lm, "one string")
        with pytest.raises(
            TypeError, match="model: got LlamaForCausalLM, expected a LanguageModel or an Engine: load_model"
        ):
            read(model.model, random_texts(3))
        with pytest.raises(TypeError, match="does not hold whole numbers"):
            read(lm, [[1.5, 2.0]])
    for wrong in ({"block_rows": 0}, {"buffer_bytes": -1}, {"max_tokens": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: got"):
            stream(model, random_texts(3), HOOK, **wrong)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 130])
def test_max_tokens_is_exact_and_grows_from_anywhere(
    n: int, pack: bool, model: LanguageModel, tmp_path: Path
) -> None:
    texts = random_texts(40)
    whole = capture(model, texts, HOOKS, tmp_path / "w", pack=pack, max_tokens=300, **OPTIONS)
    for limit in (n, n + 1, 300):
        store = capture(
            model, texts, HOOKS, tmp_path / "s", pack=pack, max_tokens=limit, shard_bytes=999, **OPTIONS
        )
        for hook in HOOKS:
            everything, expected = store[hook].select(exclude=()), whole[hook].select(exclude=())
            np.testing.assert_array_equal(everything.rows(), expected.rows(slice(0, limit)))
            np.testing.assert_array_equal(everything.documents, expected.documents[:limit])


def test_special_tokens_in_texts_are_announced_and_chosen(tiny_lm: LanguageModel, tmp_path: Path) -> None:
    texts = ["the parcel is late", "a refund <pad> please"]
    special = tiny_lm.tokenizer.pad_token_id

    def tokens(name: str, **options: Any) -> list[int]:
        store = capture(tiny_lm, texts, HOOK, tmp_path / name, pack=False, compute_dtype="float32", **options)
        found: list[int] = store.select(exclude=()).tokens.tolist()
        return found

    with pytest.warns(
        UserWarning, match=r"'<pad>' occurs in a text .* parse_special=False reads it as plain"
    ):
        read = tokens("default")
    assert special in read
    assert tokens("meant", parse_special=True) == read
    assert special not in tokens("plain", parse_special=False)
    texts = texts[:1]
    assert tokens("none")  # nothing to announce


def test_other_texts_or_settings_do_not_go_into_the_same_store(model: LanguageModel, tmp_path: Path) -> None:
    capture(model, random_texts(20), HOOK, tmp_path / "s", **OPTIONS)
    with pytest.raises(ValueError, match="other texts"):
        capture(model, random_texts(40, seed=1), HOOK, tmp_path / "s", **OPTIONS)
    with pytest.raises(ValueError, match="more texts than these"):
        capture(model, random_texts(20)[:3], HOOK, tmp_path / "s", **OPTIONS)
    with pytest.raises(ValueError, match="metadata"):
        capture(model, random_texts(20), HOOK, tmp_path / "s", **{**OPTIONS, "context": 8})
    with pytest.raises(ValueError, match="hook"):
        capture(model, random_texts(20), "blocks.0.hook_mlp_out", tmp_path / "s", **OPTIONS)


_ZYGOTE = """
# imports once, then forks captures and kills them
import importlib.util, os, random, signal, sys, time
spec = importlib.util.spec_from_file_location("helpers", sys.argv[1])
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)
helpers.torch.set_num_threads(1)
model = helpers.tiny_llama()
rng, kills = random.Random(11), 0
while True:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        helpers.capture(
            model, helpers.random_texts(120), helpers.HOOKS, sys.argv[2],
            shard_bytes=20_000, progress=lambda _: os.write(writing, b"."), **helpers.OPTIONS
        )
        os._exit(0)
    os.close(writing)
    if kills < 5:
        for _ in range(rng.randint(1, 12)):  # so many batches, then some moment in the next ones
            os.read(reading, 1)
        time.sleep(rng.random() * 0.01)
        os.kill(child, signal.SIGKILL)
    while os.read(reading, 4096):
        pass
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert os.WIFSIGNALED(status), status
    kills += 1
    manifest = helpers.Path(sys.argv[2], helpers.HOOK, "manifest.json")
    count = helpers.json.loads(manifest.read_text())["count"] if manifest.exists() else 0
    print(count, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_at_random_moments_it_ends_with_every_token_once(model: LanguageModel, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _ZYGOTE, __file__, str(tmp_path / "s")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    counts = [int(line) for line in run.stdout.split()]  # rows in finished shards at each kill
    assert len(counts) == 5
    assert counts == sorted(counts)
    assert len(set(counts)) > 2
    whole = capture(model, random_texts(120), HOOKS, tmp_path / "w", **OPTIONS)
    assert 0 < counts[-1] < whole[HOOK].manifest["count"]
    for hook, store in whole.items():
        resumed = ActivationStore(tmp_path / "s", hook=hook)
        resumed.verify()
        np.testing.assert_array_equal(resumed.tokens, store.tokens)
        np.testing.assert_array_equal(resumed.documents, store.documents)
        np.testing.assert_allclose(resumed.rows(), store.rows(), atol=1e-5)


def test_a_kill_between_two_hook_points_shards_is_mended(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, flushes = StoreWriter.flush, []

    def flush_and_die(self: StoreWriter) -> None:
        flush(self)
        flushes.append(self)
        if len(flushes) == 5:  # the first hook point's third shard is there, the second's is not
            raise KeyboardInterrupt

    monkeypatch.setattr(StoreWriter, "flush", flush_and_die)
    with pytest.raises(KeyboardInterrupt):
        capture(model, random_texts(100), HOOKS, tmp_path / "s", shard_bytes=5000, **OPTIONS)
    counts = [json.loads((tmp_path / "s" / hook / "manifest.json").read_text())["count"] for hook in HOOKS]
    assert counts[0] > counts[1] > 0
    monkeypatch.undo()
    resumed = capture(model, random_texts(100), HOOKS, tmp_path / "s", shard_bytes=5000, **OPTIONS)
    whole = capture(model, random_texts(100), HOOKS, tmp_path / "w", **OPTIONS)
    for hook in HOOKS:
        np.testing.assert_array_equal(resumed[hook].tokens, whole[hook].tokens)
        np.testing.assert_array_equal(resumed[hook].rows(), whole[hook].rows())

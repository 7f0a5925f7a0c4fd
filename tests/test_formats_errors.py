"""Damaged, foreign and ambiguous files, and full disks: messages say what is wrong, nothing is half-written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sparse_sae
from sparse_sae._io.files import FormatError
from sparse_sae._io.npz import read_npz
from sparse_sae.data.opening import open_path

GOLDEN = Path(__file__).parent / "golden"
# One of each format, and its weights file.
ONE = {
    "saelens": (GOLDEN / "saelens" / "jumprelu", "sae_weights.safetensors"),
    "sparsify": (GOLDEN / "sparsify" / "skip", "sae.safetensors"),
    "dictionary_learning": (GOLDEN / "dictionary_learning" / "GatedAutoEncoder", "ae.pt"),
    "openai": (GOLDEN / "openai" / "mlp_post_act" / "autoencoders", "8.pt"),
    "circuit_tracer": (GOLDEN / "circuit_tracer", "layer_5.safetensors"),
    "gemma_scope": (GOLDEN / "gemma_scope", "params.npz"),
}
# Formats in which one file is the SAE.
FILES = ("openai", "circuit_tracer")
SAFETENSORS = ("saelens", "sparsify", "circuit_tracer")


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """A copy of one SAE by format: what to load, and its weights file."""

    def make(name: str) -> tuple[Path, Path]:
        source, weights = ONE[name]
        folder = tmp_path / "copy"
        shutil.copytree(source, folder)
        (folder / "expected.npz").unlink()
        return (folder / weights if name in FILES else folder), folder / weights

    return make


Copy = Callable[[str], tuple[Path, Path]]


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97])
def test_truncated_weights(copy: Copy, name: str, share: float) -> None:
    path, weights = copy(name)
    content = weights.read_bytes()
    weights.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut off|truncated|not a complete|no SAE that is known") as caught:
        sparse_sae.load(path)
    assert str(path) in str(caught.value)
    if name in FILES:  # recognised by what is in them, and so perhaps no longer
        with pytest.raises(ValueError, match=r"truncated|cut off|not a complete"):
            sparse_sae.load(path, format=name)


@pytest.mark.parametrize("name", ONE)
def test_foreign_weights_under_the_right_name(copy: Copy, name: str) -> None:
    path, weights = copy(name)
    weights.write_bytes(b"<html>404: not found</html>" * 40)
    with pytest.raises(
        ValueError, match=r"not a safetensors file|not a file of tensors|not a complete|no SAE that is known"
    ):
        sparse_sae.load(path)


@pytest.mark.parametrize("name", ["saelens", "sparsify", "dictionary_learning"])
def test_missing_weights(copy: Copy, name: str) -> None:
    path, weights = copy(name)
    weights.unlink()
    with pytest.raises(ValueError, match=f"{weights.name}: missing"):
        sparse_sae.load(path)


@pytest.mark.parametrize("name", ["saelens", "sparsify", "dictionary_learning"])
@pytest.mark.parametrize("content", [None, "", '{"architecture": "jump', "[1, 2]", "null"])
def test_missing_truncated_or_foreign_configuration(copy: Copy, name: str, content: str | None) -> None:
    path, _ = copy(name)
    config = path / ("config.json" if name == "dictionary_learning" else "cfg.json")
    config.unlink()
    if content is not None:
        config.write_text(content)
    message = (
        "missing"
        if content is None
        else "not JSON"
        if content in ("", '{"architecture": "jump')
        else "JSON object"
    )
    with pytest.raises(ValueError, match=message) as caught:
        sparse_sae.load(path)
    assert str(config) in str(caught.value)


@pytest.mark.parametrize("name", SAFETENSORS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity(copy: Copy, name: str, value: float) -> None:
    path, weights = copy(name)
    tensors = load_file(weights)
    tensors["W_dec"][3, 2] = value
    save_file(tensors, weights)
    with pytest.raises(ValueError, match="W_dec: holds NaN or infinity") as caught:
        sparse_sae.load(path)
    assert str(weights.parent) in str(caught.value)


@pytest.mark.parametrize("name", SAFETENSORS)
@pytest.mark.parametrize(
    ("tensor", "shape"),
    [("b_dec", (5,)), ("b_dec", ()), ("W_dec", (24,)), ("W_dec", (7, 8)), ("W_dec", (2, 3, 4))],
)
def test_wrong_shapes(copy: Copy, name: str, tensor: str, shape: tuple[int, ...]) -> None:
    path, weights = copy(name)
    save_file({**load_file(weights), tensor: np.ones(shape, np.float32)}, weights)
    with pytest.raises(ValueError, match=f"{tensor}.* shapes? ") as caught:
        sparse_sae.load(path)
    assert str(weights.parent) in str(caught.value)


@pytest.mark.parametrize("name", SAFETENSORS)
def test_missing_and_surplus_tensors(copy: Copy, name: str) -> None:
    path, weights = copy(name)
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if k != "b_dec"}, weights)
    with pytest.raises(ValueError, match="no b_dec; found"):
        sparse_sae.load(path)
    save_file({**tensors, "b_dec2": tensors["b_dec"]}, weights)
    with pytest.raises(ValueError, match="holds b_dec2 beside"):
        sparse_sae.load(path)


def test_integers_where_floats_should_be(copy: Copy) -> None:
    path, weights = copy("saelens")
    save_file({**load_file(weights), "b_dec": np.ones(8, np.int64)}, weights)
    with pytest.raises(ValueError, match="b_dec has dtype int64, expected floats"):
        sparse_sae.load(path)


def test_safetensors_headers_that_lie(copy: Copy) -> None:
    path, weights = copy("saelens")
    content = weights.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])

    def rewrite(change: Callable[[dict[str, Any]], None]) -> None:
        new = json.loads(json.dumps(header))
        change(new)
        text = json.dumps(new).encode()
        weights.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])

    rewrite(lambda h: h["W_dec"].update(shape=[24, 9]))
    with pytest.raises(ValueError, match="W_dec has 768 bytes, its shape"):
        sparse_sae.load(path)
    rewrite(lambda h: h["W_dec"].update(dtype="F8_E4M3"))
    with pytest.raises(ValueError, match="W_dec has dtype F8_E4M3, expected"):
        sparse_sae.load(path)
    rewrite(lambda h: h["W_dec"].pop("data_offsets"))
    with pytest.raises(ValueError, match="not a safetensors file"):
        sparse_sae.load(path)
    weights.write_bytes((10**15).to_bytes(8, "little") + content[8:])
    with pytest.raises(ValueError, match="not a safetensors file, or cut off in its header"):
        sparse_sae.load(path)


class Evil:
    """Unpickling this would create a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    folder = tmp_path / "evil"
    folder.mkdir()
    shutil.copy(GOLDEN / "dictionary_learning" / "AutoEncoder" / "config.json", folder)
    with zipfile.ZipFile(folder / "ae.pt", "w") as file:
        evil = {"bias": Evil(str(proof)), "pre_bias": 1, "latent_bias": 2}
        file.writestr("archive/data.pkl", pickle.dumps(evil, protocol=2))
        file.writestr("archive/version", "3\n")
    with pytest.raises(ValueError, match="truncated, or not a file of tensors alone"):
        sparse_sae.load(folder)
    shutil.copy(folder / "ae.pt", tmp_path / "8.pt")
    with pytest.raises(ValueError, match="truncated, or not a file of tensors alone"):
        sparse_sae.load(tmp_path / "8.pt")
    np.savez(tmp_path / "params.npz", W_enc=np.array([Evil(str(proof))], object))
    with pytest.raises(ValueError, match=r"not a complete .npz file of plain arrays"):
        sparse_sae.load(tmp_path / "params.npz")
    assert not proof.exists()


def test_nothing_there_and_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        sparse_sae.load(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"found an empty directory; expected one of\n  SAELens: a directory with cfg.json"
    ):
        sparse_sae.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(ValueError, match=r"found a directory with model.safetensors, tokenizer/"):
        sparse_sae.load(tmp_path)
    with pytest.raises(ValueError, match="found a file of 1 bytes"):
        sparse_sae.load(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="format: got 'gguf', expected one of saelens"):
        sparse_sae.load(tmp_path, format="gguf")


def test_a_foreign_torch_file_is_described_by_its_names(tmp_path: Path) -> None:
    import torch

    torch.save({"lm_head.weight": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"with the names .*lm_head.weight"):
        sparse_sae.load(tmp_path / "model.pt")


def test_two_formats_in_one_directory(copy: Copy) -> None:
    path, _ = copy("saelens")
    shutil.copy(GOLDEN / "sparsify" / "skip" / "sae.safetensors", path)
    with pytest.raises(
        ValueError, match=r"could be saelens or sparsify; say which: load\(path, format='saelens'\)"
    ):
        sparse_sae.load(path)
    assert sparse_sae.load(path, format="saelens").d_sae == 24


def test_settings_and_weights_of_two_saes(copy: Copy, tmp_path: Path) -> None:
    path, _ = copy("sparsify")
    config = json.loads((path / "cfg.json").read_text())
    for change, message in (
        ({"num_latents": 48}, "8 inputs and 48 latents, the weights say 8 and 24"),
        ({"skip_connection": False}, "skip_connection is False, W_skip"),
        ({"activation": "softmax"}, "activation 'softmax' is not read"),
        ({"activation": "groupmax", "k": 5}, "k: got 5, expected a divisor of d_sae = 24"),
        ({"k": 25}, "k: got 25, expected 1 to d_sae = 24"),
    ):
        (path / "cfg.json").write_text(json.dumps({**config, **change}))
        with pytest.raises((ValueError, NotImplementedError), match=message):
            sparse_sae.load(path)
    topk = tmp_path / "topk"
    shutil.copytree(GOLDEN / "dictionary_learning" / "AutoEncoderTopK", topk)
    config = json.loads((topk / "config.json").read_text())
    for change, message in (
        ({"dict_class": "IdentityDict"}, "trainer.dict_class is 'IdentityDict', expected one of AutoEncoder"),
        ({"k": 5}, "k is 4, config.json says 5"),
        ({"dict_size": 48}, "dict_size is 48, the weights say 24"),
        ({"dict_class": "GatedAutoEncoder"}, "no gate_bias, mag_bias, r_mag, decoder_bias; found"),
    ):
        (topk / "config.json").write_text(json.dumps({"trainer": {**config["trainer"], **change}}))
        with pytest.raises(ValueError, match=message):
            sparse_sae.load(topk)


def test_torch_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    topk = sparse_sae.load(GOLDEN / "saelens" / "topk")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'sparse-sae\[lm\]'"):
        sparse_sae.load(GOLDEN / "dictionary_learning" / "AutoEncoder")
    with pytest.raises(ImportError, match=r"pip install 'sparse-sae\[lm\]'"):
        topk.save(tmp_path / "new", format="dictionary_learning")
    assert not list(tmp_path.iterdir())


WRITTEN = ("saelens", "sparsify", "dictionary_learning")


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_a_full_disk_leaves_the_old_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    """Whichever of its system calls fails first, the directory is the old one or, at the very end, the new one."""
    old, new = sparse_sae.load(GOLDEN / "saelens" / "topk"), sparse_sae.load(GOLDEN / "saelens" / "old_topk")
    new.save(tmp_path / "complete", format=name)
    after = tree(tmp_path / "complete")
    real = getattr(os, call)
    for fails_at in range(20):
        target = tmp_path / str(fails_at) / "sae"
        old.save(target, format=name)
        before = tree(target)
        left = fails_at

        def fail(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with contextlib.suppress(OSError):
                new.save(target, format=name)
        assert [p.name for p in target.parent.iterdir()] == ["sae"]
        assert tree(target) in (before, after)
        if left >= 0:  # it no longer failed: every call has had its turn
            assert tree(target) == after
            assert fails_at >= 1
            return
        if call != "fsync":
            assert tree(target) == before
    raise AssertionError("saving makes more system calls than this test tries")


LIMITED = """
import resource, signal, sys
import sparse_sae
sae = sparse_sae.load(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    sae.save(sys.argv[2], format=sys.argv[3])
except OSError as error:
    print("refused:", error.strerror)
"""


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_that_cannot_grow_any_more(tmp_path: Path, name: str) -> None:
    """A real failing write: files of this process may not pass 1000 bytes."""
    source = GOLDEN / "saelens" / "topk"
    sparse_sae.load(source).save(tmp_path / "sae", format=name)
    before = tree(tmp_path / "sae")
    command = [sys.executable, "-c", LIMITED, str(source), str(tmp_path / "sae"), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "refused: File too large\n", done
    assert tree(tmp_path / "sae") == before
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]


def test_tensors_that_share_bytes_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    """Four hundred views of the same 8 MB, widened, would take gigabytes."""
    count = 1 << 20
    header = {f"t{i}": {"dtype": "F16", "shape": [count], "data_offsets": [0, 2 * count]} for i in range(400)}
    text = json.dumps(header).encode()
    (tmp_path / "sae_weights.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + bytes(2 * count)
    )
    (tmp_path / "cfg.json").write_text('{"d_sae": 4, "d_in": 4, "architecture": "standard"}')
    with pytest.raises(ValueError, match="overlaps the tensor before it"):
        sparse_sae.load(tmp_path)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text('{"d_sae": 4, "d_in": 4, "architecture": "standard"}')
    os.mkfifo(tmp_path / "sae_weights.safetensors")
    with pytest.raises(ValueError, match="FIFO"):
        sparse_sae.load(tmp_path, format="saelens")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": 1e999999}', "\x00", '"text"', "{" + '"a":' * 3])
def test_configurations_that_break_a_parser_are_value_errors(tmp_path: Path, text: str) -> None:
    (tmp_path / "cfg.json").write_text(text)
    (tmp_path / "sae_weights.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cfg\.json|safetensors"):
        sparse_sae.load(tmp_path, format="saelens")


@pytest.mark.parametrize("name", ["sae.safetensors", "params.npz", "ae.pt", "sae"])
def test_a_fifo_is_not_waited_for(name: str, tmp_path: Path) -> None:
    """Recognising a format opens the path too; a FIFO without a writer would never open."""
    os.mkfifo(tmp_path / name)
    command = [sys.executable, "-m", "sparse_sae", "info", str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "FIFO" in done.stderr


@pytest.mark.parametrize(
    ("field", "value"), [(4, 0xFF), (8, 99)]
)  # local header: version needed, way to compress
def test_an_archive_in_an_unknown_way_is_damaged(field: int, value: int, tmp_path: Path) -> None:
    """Found by torture: zipfile raises NotImplementedError, which would say that a format is known but not offered."""
    path = tmp_path / "rows.npz"
    np.savez(path, rows=np.ones((3, 2), np.float32))
    content = bytearray(path.read_bytes())
    for mark, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        content[content.index(mark) + field + shift] = value
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"rows\.npz: not a complete \.npz"):
        read_npz(path)


def test_an_npy_header_that_does_not_end_is_damaged(tmp_path: Path) -> None:
    """Found by torture: NumPy lets an error of Python's tokenizer through."""
    path = tmp_path / "rows.npy"
    np.save(path, np.ones((3, 2), np.float32))
    path.write_bytes(path.read_bytes().replace(b"}", b" "))
    with pytest.raises(FormatError, match=r"rows\.npy: not a complete \.npy"):
        open_path(path)


def test_a_width_of_zero_in_a_configuration_is_damaged(tmp_path: Path) -> None:
    """Found by torture: it was divided by."""
    folder = Path(shutil.copytree(GOLDEN / "sparsify" / "by_expansion", tmp_path / "copy"))
    config = json.loads((folder / "cfg.json").read_text())
    for value in (0, -1):
        (folder / "cfg.json").write_text(json.dumps(config | {"d_in": value}))
        with pytest.raises(ValueError, match="copy"):
            sparse_sae.load(folder)


def test_weights_of_nothing_are_damaged(tmp_path: Path) -> None:
    """Found by fuzzing: a shape of zeros in an array's header gave an SAE that failed when it encoded."""
    folder = Path(shutil.copytree(GOLDEN / "gemma_scope", tmp_path / "copy"))
    with np.load(folder / "params.npz") as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(folder / "params.npz", **arrays | {"W_enc": np.zeros((0, 24), np.float32)})
    with pytest.raises(ValueError, match=r"copy.*at least one input, latent and output"):
        sparse_sae.load(folder)
    none = {"W_enc": np.zeros((4, 0)), "W_dec": np.zeros((0, 4)), "b_enc": np.zeros(0), "b_dec": np.zeros(4)}
    with pytest.raises(ValueError, match="at least one input, latent and output"):
        sparse_sae.SAE(none, sparse_sae.activations.ReLU())


@pytest.mark.parametrize("name", ["params.npz", "8.pt", "layer_5.safetensors"])
def test_a_fifo_under_the_name_of_weights_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
            sparse_sae.load(path)


def test_a_text_is_not_multiplied_by_a_width(tmp_path: Path) -> None:
    """It took 32 GB before the two were compared with the weights."""
    folder = Path(shutil.copytree(GOLDEN / "sparsify" / "by_expansion", tmp_path / "copy"))
    config = json.loads((folder / "cfg.json").read_text())
    changed = {"num_latents": None, "d_in": 1 << 31, "expansion_factor": "../../etc/passwd"}
    (folder / "cfg.json").write_text(json.dumps(config | changed))
    with pytest.raises(
        ValueError, match=r"cfg.json: 'expansion_factor' should be a whole number, found '\.\./"
    ):
        sparse_sae.load(folder)


@pytest.mark.parametrize("name", ["saelens", "sparsify"])
def test_every_flipped_bit_of_saved_weights_is_found(name: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    params = {
        "W_enc": rows,
        "W_dec": rows,
        "b_enc": np.ones(12, np.float32),
        "b_dec": np.zeros(4, np.float32),
    }
    sae = sparse_sae.SAE.from_rows(params, sparse_sae.TopK(k=2))
    sae.save(tmp_path / "sae", format=name)
    (file,) = (tmp_path / "sae").glob("*.safetensors")
    good = file.read_bytes()
    start = 8 + int.from_bytes(good[:8], "little")
    for byte in range(start, len(good)):
        file.write_bytes(good[:byte] + bytes([good[byte] ^ 1 << byte % 8]) + good[byte + 1 :])
        with pytest.raises(ValueError, match=f"{file.name}: its tensors' checksum"):
            sparse_sae.load(tmp_path / "sae")
    # Another program may put other weights there: its file says nothing of ours.
    file.write_bytes(good)
    save_file({k: v + 0 for k, v in load_file(file).items()}, file)
    np.testing.assert_array_equal(sparse_sae.load(tmp_path / "sae").W_dec, rows)

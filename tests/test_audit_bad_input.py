"""What an audit refuses, and that it says why and leaves nothing half-written."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparse_sae._io.files import FormatError
from sparse_sae.architectures import TopK
from sparse_sae.audit import archive
from sparse_sae.audit.bundle import Verified, assemble, verify
from sparse_sae.audit.examples import SealBroken
from sparse_sae.audit.running import rerun, run_audit
from sparse_sae.audit.watchlist import Watch, WatchList
from sparse_sae.cli import main
from sparse_sae.sae import SAE

HOOK = "blocks.1.hook_resid_post"
WORDS = ["the", "parcel", "is", "late", "price", "money", "back", "we", "can", "please"]
DATA = {"jsonl": "cases.jsonl", "chat": False}


def cases(
    directory: Path, n: int, labels: Any, name: str = "cases.jsonl", seed: int = 0, **more: Any
) -> None:
    """Texts of the tiny model's words, longer for another seed so that no two files share one."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "text": " ".join(rng.choice(WORDS, 9 + seed)) + (" angry" if labels(i) else ""),
            "label": bool(labels(i)),
        }
        for i in range(n)
    ]
    for row, group in zip(rows, more.get("groups", []), strict=False):
        row["group"] = group
    (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


CHECKS: dict[str, dict[str, Any]] = {
    "detection": {"name": "c", "kind": "detection", "data": DATA, "fprs": []},
    "latent": {
        "name": "c",
        "kind": "latent",
        "data": DATA,
        "latent": 3,
        "choices": ["yes", "no"],
        "controls": 1,
        "benign_texts": 1,
        "n": 4,
        "over_refusal": 1,
    },
    "decision": {
        "name": "c",
        "kind": "decision",
        "data": DATA,
        "development": {"jsonl": "development.jsonl", "chat": False},
        "outcomes": {"approve": "yes", "refuse": "no"},
        "controls": 2,
    },
    "choices": {"name": "c", "kind": "choices", "set": "false_claims", "n": 4},
    "generation": {"name": "c", "kind": "generation", "set": "refusal", "n": 4, "new_tokens": 2},
}


def policy(directory: Path, *kinds: str, **changes: Any) -> Path:
    body = {
        "format": "sparse_sae.audit.policy",
        "version": 1,
        "title": "bad input",
        "hook": HOOK,
        "checks": [{**CHECKS[kind], "name": kind} for kind in kinds],
    } | changes
    path = directory / "policy.json"
    path.write_text(json.dumps(body))
    return path


@pytest.fixture(scope="module")
def lm(tiny_lm: Any) -> Any:
    tokenizer = copy.copy(tiny_lm.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return dataclasses.replace(tiny_lm, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def made(lm: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Verified]:
    directory = tmp_path_factory.mktemp("bundle")
    cases(directory, 40, lambda i: i % 2)
    check = {**CHECKS["detection"], "kinds": ["length", "raw probe"], "folds": 2}
    path = policy(directory, checks=[check])
    return directory / "audit.zip", run_audit(path, directory / "audit.zip", model=lm)


def nothing_written(directory: Path) -> bool:
    return not [p.name for p in directory.iterdir() if p.suffix not in (".jsonl", ".json")]


@pytest.mark.parametrize("kind", ["detection", "latent", "decision"])
@pytest.mark.parametrize(
    ("n", "label", "said"),
    [(0, 0, "0 of 0"), (6, 1, "6 of 6"), (6, 0, "0 of 6")],
    ids=["empty", "positives only", "negatives only"],
)
def test_a_class_without_texts_is_named_with_its_file(
    lm: Any, tiny_sae: Any, tmp_path: Path, kind: str, n: int, label: int, said: str
) -> None:
    cases(tmp_path, 8, lambda i: i % 2, "development.jsonl", seed=1)
    cases(tmp_path, n, lambda _i: label)
    path = policy(tmp_path, kind)
    with pytest.raises(ValueError, match=rf"cases\.jsonl: labels: {said}.*expected both classes"):
        run_audit(path, tmp_path / "a.zip", model=lm, sae=tiny_sae)
    assert nothing_written(tmp_path)


def test_too_few_groups_to_divide_are_named(lm: Any, tmp_path: Path) -> None:
    cases(tmp_path, 8, lambda i: i % 2, groups=["a"] * 8)
    with pytest.raises(ValueError, match="one class only after dividing 1 groups"):
        run_audit(policy(tmp_path, "detection"), tmp_path / "a.zip", model=lm)
    assert nothing_written(tmp_path)


def test_texts_that_occur_twice_are_kept_on_one_side_and_reported(lm: Any, tmp_path: Path) -> None:
    cases(tmp_path, 60, lambda i: i % 2)
    rows = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text().splitlines()]
    for i in range(0, 20, 2):  # the same text, otherwise written, at the other end of the file
        rows[59 - i] = {**rows[i], "text": "  " + rows[i]["text"].upper().lower()}
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, rows)))
    check = {**CHECKS["detection"], "kinds": ["length"], "folds": 2}
    found = run_audit(policy(tmp_path, checks=[check]), tmp_path / "a.zip", model=lm)
    assert any("10 texts occurred twice" in note for note in found.results["checks"][0]["notes"])
    sealed = [s["text"].strip() for s in found.samples]
    twice = {r["text"].strip() for r in rows[:20:2]}
    assert {sealed.count(text) for text in twice} <= {0, 2} and {sealed.count(t) for t in twice} & {2}
    assert "10 texts occurred twice" in archive.read(tmp_path / "a.zip")["report.html"].decode()


def test_a_policy_that_was_changed_after_its_results_is_refused_by_the_command(
    made: tuple[Path, Verified], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, _ = made
    seal = json.loads((bundle.parent / "audit.zip.seal.json").read_text())
    (tmp_path / "audit.zip.seal.json").write_text(json.dumps(seal))
    assert main(["audit", "run", str(policy(tmp_path, "choices")), "--out", str(tmp_path / "audit.zip")]) == 1
    assert "A policy is fixed before its results" in capsys.readouterr().err
    assert nothing_written(tmp_path)
    with pytest.raises(SealBroken):
        run_audit(policy(tmp_path, "choices"), tmp_path / "audit.zip")


def test_a_model_whose_hash_differs_is_named_before_anything_runs(
    made: tuple[Path, Verified], lm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, _ = made
    other = dataclasses.replace(lm, model=copy.deepcopy(lm.model))
    weight = other.model.model.layers[0].mlp.up_proj.weight
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(torch.inf))  # one bit of one weight
    monkeypatch.setattr("sparse_sae.audit.running.run_audit", lambda *_a, **_k: pytest.fail("it ran"))
    with pytest.raises(
        FormatError,
        match="the model's SHA-256 is",
    ):
        rerun(bundle, directory=bundle.parent, model=other)


def test_an_sae_whose_hash_differs_is_named(made: tuple[Path, Verified], lm: Any, tiny_sae: Any) -> None:
    bundle, _ = made
    with pytest.raises(FormatError, match="the SAE's SHA-256 is"):
        rerun(bundle, directory=bundle.parent, model=lm, sae=tiny_sae)
    watch = WatchList.of(tiny_sae, [Watch("w", 1.0, "a test", latent=2)])
    weights = {name: np.array(tiny_sae.rows[name]) for name in ("W_enc", "W_dec")}
    weights["W_enc"][0, 0] = np.nextafter(weights["W_enc"][0, 0], np.float32(9))  # one bit of one weight
    biases = {"b_enc": np.zeros(64, np.float32), "b_dec": np.zeros(32, np.float32)}
    other = SAE.from_rows({**weights, **biases}, TopK(k=8), metadata=dict(tiny_sae.metadata))
    with pytest.raises(ValueError, match="sae"):
        watch.require(other)


def test_a_bundle_cut_anywhere_is_refused(made: tuple[Path, Verified], tmp_path: Path) -> None:
    whole, path = made[0].read_bytes(), tmp_path / "cut.zip"
    for length in {0, 1, 22, len(whole) - 1, *range(0, len(whole), max(1, len(whole) // 100))}:
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=r"cut\.zip"):
            verify(path)


def test_zip_bombs_are_refused_before_they_are_unpacked(made: tuple[Path, Verified], tmp_path: Path) -> None:
    """Compressed, larger than a bundle may be, and stored with a header that promises more than there is."""
    members, path = archive.read(made[0]), tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content if name != "samples.jsonl" else b"0" * 100_000_000)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(FormatError, match="compressed or encrypted"):
        verify(path)
    with path.open("wb") as file:
        file.truncate(archive.LIMIT + 1)  # a file with a hole, which takes no room
    with pytest.raises(FormatError, match=f"expected an audit bundle of at most {archive.LIMIT}"):
        verify(path)
    content = bytearray(made[0].read_bytes())
    at = content.index(b"PK\x01\x02")  # the first entry of the directory: sizes stand 20 bytes into it
    struct.pack_into("<II", content, at + 20, 0xF0000000, 0xF0000000)
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"bomb\.zip"):
        verify(path)


@pytest.mark.parametrize(
    "name",
    ["../outside", "/tmp/outside", "a/../../outside", "policy.json/../../outside", "..\\outside", "C:\\x"],
)
def test_names_that_lead_out_of_the_archive_are_refused(
    made: tuple[Path, Verified], tmp_path: Path, name: str
) -> None:
    members, path = archive.read(made[0]), tmp_path / "inside" / "p.zip"
    path.parent.mkdir()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for member, content in members.items():
            file.writestr(member, content)
        file.writestr(name, b"{}")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(FormatError, match="no member of an audit bundle"):
        verify(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["inside", "p.zip"]


@pytest.mark.parametrize("kind", list(CHECKS))
def test_a_model_that_says_nan_is_named_and_nothing_is_written(
    lm: Any, tiny_sae: Any, tmp_path: Path, kind: str
) -> None:
    cases(tmp_path, 40, lambda i: i % 2)
    cases(tmp_path, 8, lambda i: i % 2, "development.jsonl", seed=1)
    broken = dataclasses.replace(lm, model=copy.deepcopy(lm.model))
    broken.model.model.layers[1].mlp.down_proj.weight[3, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        run_audit(policy(tmp_path, kind), tmp_path / "a.zip", model=broken, sae=tiny_sae)
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("member", ["results.json", "manifest.json", "policy.json", "samples.jsonl"])
def test_nan_in_a_bundle_is_refused(made: tuple[Path, Verified], tmp_path: Path, member: str) -> None:
    bundle, found = made
    members = archive.read(bundle)
    value = {"results.json": b'"value":0.', "samples.jsonl": b'"length":'}.get(member)
    content = members[member]
    if value is None:
        content = content[:-1] + b',"z":NaN}'
    else:
        at = content.index(value) + len(b'"value":' if member == "results.json" else value)
        end = min(content.index(c, at) for c in (b",", b"}") if c in content[at:])
        content = content[:at] + b"NaN" + content[end:]
    archive.write(tmp_path / "nan.zip", {**members, member: content})
    with pytest.raises(FormatError, match=r"nan\.zip"):
        verify(tmp_path / "nan.zip")
    environment = {k: v for k, v in found.manifest.items() if k not in ("policy_sha256", "chain", "files")}
    samples = copy.deepcopy(found.samples)
    samples[0]["scores"]["length"] = float("nan")
    with pytest.raises(ValueError, match="expected finite numbers"):
        assemble(found.policy, environment, found.results, samples)


def test_nan_in_a_policy_is_refused(lm: Any, tmp_path: Path) -> None:
    cases(tmp_path, 8, lambda i: i % 2)
    for changes in (
        {"rules": [{"metric": "m", "at_least": float("nan")}]},
        {"fprs": [float("nan")]},
        {"test_share": float("inf")},
    ):
        path = policy(tmp_path, checks=[{**CHECKS["detection"], **changes}])
        with pytest.raises(ValueError, match=r"policy\.json"):
            run_audit(path, tmp_path / "a.zip", model=lm)
    assert nothing_written(tmp_path)

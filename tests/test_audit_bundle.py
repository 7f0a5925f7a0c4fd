"""Audit bundles: from a policy to a file that another person verifies and runs again."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sparse_sae.audit import archive
from sparse_sae.audit.bundle import assemble, verify
from sparse_sae.audit.examples import SealBroken
from sparse_sae.audit.policy import Policy
from sparse_sae.audit.running import rerun, run_audit
from sparse_sae.cli import main

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def lm(tiny_lm: Any) -> Any:
    tokenizer = copy.copy(tiny_lm.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return dataclasses.replace(tiny_lm, tokenizer=tokenizer)


def policy_in(directory: Path, **changes: Any) -> Path:
    """A policy on texts of the tiny model's words: which hold `angry` is the label."""
    rng = random.Random(0)
    words = ["the", "parcel", "is", "late", "price", "money", "back", "we", "can", "please"]
    lines = []
    for i in range(120):
        text = [rng.choice(words) for _ in range(8)]
        if i % 2:
            text[rng.randrange(2, 8)] = "angry"
        lines.append({"text": " ".join(text), "label": bool(i % 2), "group": str(i // 2), "hard": i % 4 == 0})
    (directory / "cases.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = {"jsonl": "cases.jsonl", "chat": False}
    body = {
        "format": "sparse_sae.audit.policy",
        "version": 1,
        "title": "A <tiny> audit & its rules",
        "hook": HOOK,
        "responsible": "nobody",
        "hypotheses": ["a raw probe tells angry texts"],
        "limitations": ["a random model"],
        "checks": [
            {
                "name": "anger",
                "kind": "detection",
                "data": data,
                "fprs": [0.1, 0.01],
                "rules": [
                    {"metric": "raw probe: AUROC", "field": "low", "at_least": 0.7},
                    {"metric": "latent: AUROC", "at_least": "length: AUROC", "otherwise": "WARNED"},
                ],
            },
            {
                "name": "its latent",
                "kind": "latent",
                "data": data,
                "latent": "anger: latent",
                "choices": ["yes", "no"],
                "controls": 1,
                "benign_texts": 1,
                "n": 10,
                "over_refusal": 3,
            },
            {"name": "opinions", "kind": "choices", "set": "sycophancy", "n": 20},
            {"name": "truth", "kind": "choices", "set": "false_claims", "n": 20},
            {"name": "secrets", "kind": "generation", "set": "personal_data", "n": 8, "new_tokens": 3},
        ],
    } | changes
    path = directory / "policy.json"
    path.write_text(json.dumps(body))
    return path


@pytest.fixture(scope="module")
def bundle(lm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np

    from sparse_sae.architectures import JumpReLU
    from sparse_sae.sae import SAE

    directory = tmp_path_factory.mktemp("audit")
    rows = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    params = {
        "W_enc": rows,
        "W_dec": rows / 8,
        "b_enc": np.zeros(64),
        "b_dec": np.zeros(32),
        "threshold": np.ones(64),
    }
    sae = SAE.from_rows(
        {k: v.astype(np.float32) for k, v in params.items()},
        JumpReLU(),
        metadata={"model_name": "tiny", "hook_name": HOOK},
    )
    sae.save(directory / "sae")
    out = directory / "audit.zip"
    run_audit(policy_in(directory, sae="sae"), out, model=lm)
    return out


def test_a_bundle_says_what_was_found(bundle: Path) -> None:
    found = verify(bundle, policy=bundle.parent / "policy.json")
    assert found.signed_by is None
    checks = {check["name"]: check for check in found.results["checks"]}
    anger = {m["name"]: m for m in checks["anger"]["metrics"]}
    assert checks["anger"]["rules"][0]["verdict"] == "PASSED" and anger["raw probe: AUROC"]["low"] > 0.7
    assert anger["raw probe: AUROC"]["chance"] == 0.5
    alarm = anger["raw probe: false alarms at 0.1"]
    assert 0 <= alarm["low"] <= alarm["successes"] / alarm["n"] <= alarm["high"] and alarm["n"] == 30
    assert any("refused" in note and "299" in note for note in checks["anger"]["notes"])
    assert not any("0.01" in name for name in anger)
    latent = {m["name"]: m for m in checks["its latent"]["metrics"]}
    assert {"detects: AUROC", "steers: p against controls", "silences: p against controls"} <= set(latent)
    assert latent["steers: perplexity of benign text"]["chance"] > 1
    assert sum(check["samples"] for check in checks.values()) == len(found.samples) == 60 + 13 + 20 + 20 + 8
    assert found.results["verdict"] in ("PASSED", "WARNED")
    seal = json.loads((bundle.parent / "audit.zip.seal.json").read_text())
    assert seal["policy"] == found.manifest["policy_sha256"] and len(seal["reads"]) == 2


def test_the_report_is_a_page_without_scripts(bundle: Path) -> None:
    members = archive.read(bundle)
    page = members["report.html"].decode()
    assert "<script" not in page.lower() and "http" not in page.replace("http-equiv", "")
    assert "A &lt;tiny&gt; audit &amp; its rules" in page and "self-attested" in page
    assert "too small for claims about deception" in members["limitations.md"].decode()
    statement = json.loads(members["statement.json"])
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert {s["name"] for s in statement["subject"]} == set(archive.MEMBERS[:-2])


def test_a_rerun_gives_the_same_bits(bundle: Path, lm: Any, tiny_sae: Any) -> None:
    again = rerun(bundle, directory=bundle.parent, model=lm)
    assert again.same and not again.differences and not again.environment
    with pytest.raises(ValueError, match="the SAE's SHA-256"):
        rerun(bundle, directory=bundle.parent, model=lm, sae=tiny_sae)


def test_a_rerun_elsewhere_states_the_difference(bundle: Path, lm: Any, tmp_path: Path) -> None:
    """As on another machine: one sample and one metric came out differently there."""
    old = verify(bundle)
    results, samples = copy.deepcopy(old.results), copy.deepcopy(old.samples)
    metric = next(m for m in results["checks"][0]["metrics"] if "nested" in m["name"])
    metric["value"] += 1e-9
    samples[0]["scores"]["length"] += 1e-9
    environment = {k: v for k, v in old.manifest.items() if k not in ("policy_sha256", "chain", "files")}
    environment["kernels"] = {**environment["kernels"], "level": "another"}
    archive.write(tmp_path / "b.zip", assemble(old.policy, environment, results, samples))
    again = rerun(tmp_path / "b.zip", directory=bundle.parent, model=lm)
    assert (
        not again.same and ("kernels.level", "another", old.manifest["kernels"]["level"]) in again.environment
    )
    assert [name for name, _, _ in again.differences] == [f"anger: {metric['name']}", "samples that differ"]


def test_every_random_edit_is_found(bundle: Path, tmp_path: Path) -> None:
    whole, path, rng = bundle.read_bytes(), tmp_path / "edited.zip", random.Random(0)
    verify(bundle)
    found = 0
    for number in range(1000):
        content = bytearray(whole)
        at = rng.randrange(len(content))
        kind = number % 5
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at] = (content[at] + rng.randrange(1, 256)) % 256
        elif kind == 2:
            del content[at : at + rng.randrange(1, 50)]
        elif kind == 3:
            content[at:at] = rng.randbytes(rng.randrange(1, 50))
        else:
            del content[at:]
        path.write_bytes(content)
        try:
            verify(path)
        except ValueError as error:
            found += "edited.zip" in str(error)
    assert found == 1000


def repacked(members: dict[str, bytes], path: Path) -> Path:
    archive.write(path, members)
    return path


def test_edits_that_keep_the_archive_whole_are_found(bundle: Path, tmp_path: Path) -> None:
    old = verify(bundle)
    environment = {k: v for k, v in old.manifest.items() if k not in ("policy_sha256", "chain", "files")}

    def forged(message: str, policy: Any = None, results: Any = None, samples: Any = None) -> None:
        """Everything hashed again as if it had been so from the start."""
        made = assemble(policy or old.policy, environment, results or old.results, samples or old.samples)
        with pytest.raises(ValueError, match=message):
            verify(repacked(made, tmp_path / "forged.zip"))

    results = copy.deepcopy(old.results)
    rate = next(m for m in results["checks"][0]["metrics"] if m["kind"] == "rate" and m["successes"] > 0)
    rate["successes"] -= 1
    forged("not what the samples give", results=results)
    results = copy.deepcopy(old.results)
    results["verdict"] = "FAILED"
    forged("does not follow", results=results)
    policy = copy.deepcopy(old.policy)
    policy["checks"][0]["rules"][0]["at_least"] = 0.1
    forged("does not follow from rules", policy=policy)
    forged("samples give", samples=old.samples[1:])
    members = archive.read(bundle)
    members["report.html"] = members["report.html"].replace(b"WARNED", b"PASSED").replace(b"self", b"well")
    with pytest.raises(ValueError, match=r"report\.html: not the content that the manifest hashed"):
        verify(repacked(members, tmp_path / "forged.zip"))
    other = json.loads((bundle.parent / "policy.json").read_text()) | {"title": "another"}
    (tmp_path / "p.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="another policy"):
        verify(bundle, policy=tmp_path / "p.json")
    with pytest.raises(ValueError, match="expected 00"):
        verify(bundle, sha256_known="00")


def test_hostile_archives_are_refused(bundle: Path, tmp_path: Path) -> None:
    members, path = archive.read(bundle), tmp_path / "hostile.zip"

    def made(change: Any, kind: int = zipfile.ZIP_STORED) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as file:
            change(file)
            for name, content in members.items():
                if name not in file.namelist():
                    file.writestr(name, content)
        path.write_bytes(buffer.getvalue())

    made(lambda f: f.writestr("../../outside.json", b"{}"))
    with pytest.raises(ValueError, match="no member of an audit bundle"):
        verify(path)
    made(lambda f: f.writestr("results.json", b"0" * 50_000_000), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed or encrypted"):
        verify(path)

    def twice(file: zipfile.ZipFile) -> None:
        file.writestr("results.json", b"{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("results.json", members["results.json"])

    made(twice)
    with pytest.raises(ValueError, match="twice there"):
        verify(path)
    path.write_bytes(b"not a zip file")
    with pytest.raises(ValueError, match="not an audit bundle"):
        verify(path)
    with pytest.raises(ValueError, match="missing"):
        verify(tmp_path / "nothing.zip")


def test_signatures(bundle: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    for name in ("ours", "other"):
        key = Ed25519PrivateKey.generate()
        (tmp_path / f"{name}.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        (tmp_path / f"{name}.pub").write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
    old = verify(bundle)
    environment = {k: v for k, v in old.manifest.items() if k not in ("policy_sha256", "chain", "files")}
    signed = tmp_path / "signed.zip"
    archive.write(signed, assemble(old.policy, environment, old.results, old.samples, tmp_path / "ours.pem"))
    assert verify(signed, public_key=tmp_path / "ours.pub").signed_by
    with pytest.raises(ValueError, match="another key"):
        verify(signed, public_key=tmp_path / "other.pub")
    with pytest.raises(ValueError, match="not signed"):
        verify(bundle, public_key=tmp_path / "ours.pub")
    members = archive.read(signed)
    theirs = assemble(
        old.policy, {**environment, "created": "2031-01-01T00:00:00+00:00"}, old.results, old.samples
    )
    with pytest.raises(ValueError, match="another statement"):
        verify(repacked({**theirs, "signature.json": members["signature.json"]}, tmp_path / "moved.zip"))
    whole, rng = signed.read_bytes(), random.Random(1)
    start = whole.index(b"signature.json")
    for _ in range(100):
        content = bytearray(whole)
        content[rng.randrange(start, start + len(members["signature.json"]))] ^= 1
        (tmp_path / "flipped.zip").write_bytes(content)
        with pytest.raises(ValueError):
            verify(tmp_path / "flipped.zip")


def test_a_policy_is_fixed_before_its_results(lm: Any, tmp_path: Path) -> None:
    only = [{"name": "truth", "kind": "choices", "set": "false_claims", "n": 4}]
    data = {"jsonl": "cases.jsonl", "chat": False}
    check = {"name": "anger", "kind": "detection", "data": data, "kinds": ["length"], "fprs": []}
    out = tmp_path / "a.zip"
    run_audit(policy_in(tmp_path, checks=[check]), out, model=lm)
    before = out.read_bytes()
    with pytest.raises(SealBroken, match="fixed before its results"):
        run_audit(policy_in(tmp_path, checks=[check, *only]), out, model=lm)
    assert out.read_bytes() == before
    again = run_audit(policy_in(tmp_path, checks=[check]), out, model=lm)
    assert again.results["checks"][0]["reads"] == 2
    assert "read more than once" in archive.read(out)["limitations.md"].decode()


def test_a_run_that_fails_leaves_no_bundle(lm: Any, tmp_path: Path) -> None:
    check = {
        "name": "x",
        "kind": "latent",
        "data": {"jsonl": "cases.jsonl"},
        "latent": 3,
        "choices": ["yes", "no"],
    }
    with pytest.raises(ValueError, match="the policy names none"):
        run_audit(policy_in(tmp_path, checks=[check]), tmp_path / "a.zip", model=lm)
    (tmp_path / "cases.jsonl").write_text('{"text": "a", "label": 3}')
    check = {"name": "x", "kind": "detection", "data": {"jsonl": "cases.jsonl"}}
    path = policy_in(tmp_path, checks=[check])
    (tmp_path / "cases.jsonl").write_text('{"text": "a", "label": 3}')
    with pytest.raises(ValueError, match=r"cases\.jsonl: line 1"):
        run_audit(path, tmp_path / "a.zip", model=lm)
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checks": []}, "at least one"),
        ({"more": 1}, "unknown fields"),
        ({"version": 2}, "version 2"),
        ({"checks": [{"name": "a", "kind": "magic"}]}, "expected one of detection"),
        ({"checks": [{"name": "a", "kind": "choices"}]}, "missing"),
        ({"checks": [{"name": "a", "kind": "choices", "set": "x", "speed": 1}]}, "unknown"),
        ({"checks": [{"name": "a", "kind": "choices", "set": "x", "rules": [{"metric": "m"}]}]}, "at_least"),
        ({"title": 3}, "expected a text"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_policies_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Policy.load(policy_in(tmp_path, **changes))


def test_the_commands(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", str(bundle), "--policy", str(bundle.parent / "policy.json")]) == 0
    assert "whole and unchanged; self-attested" in capsys.readouterr().out
    assert main(["audit", "show", str(bundle), "--html", str(tmp_path / "r.html")]) == 0
    out = capsys.readouterr().out
    assert "raw probe: AUROC" in out and "chance 0.5" in out and (tmp_path / "r.html").exists()
    (tmp_path / "cut.zip").write_bytes(bundle.read_bytes()[:-5])
    assert main(["audit", "verify", str(tmp_path / "cut.zip")]) == 1
    assert "cut.zip" in capsys.readouterr().err


def test_the_eval_log_has_the_required_fields(bundle: Path) -> None:
    log = json.loads(archive.read(bundle)["eval.json"])
    assert (log["version"], log["status"]) == (2, "success")
    assert {"created", "task", "dataset", "model", "config"} <= set(log["eval"])
    assert len(log["samples"]) == log["results"]["total_samples"]

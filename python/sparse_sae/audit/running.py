"""Run an audit: from a policy to a bundle, and from a bundle to the same bits again."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import sparse_sae
from sparse_sae._io.files import FormatError
from sparse_sae.audit import archive
from sparse_sae.audit.bundle import Verified, assemble, verify
from sparse_sae.audit.checks import KINDS
from sparse_sae.audit.context import Context
from sparse_sae.audit.examples import Seal
from sparse_sae.audit.hashes import canonical, code_sha256, model_sha256, sae_sha256, sha256, tokenizer_sha256
from sparse_sae.audit.policy import Policy
from sparse_sae.audit.results import judge, worst
from sparse_sae.lm.model.loading import LanguageModel, load_model

Say = Callable[[str], None]


def run_audit(
    policy: Policy | str | Path,
    out: str | Path,
    *,
    model: LanguageModel | None = None,
    sae: Any = None,
    key: str | Path | None = None,
    say: Say | None = None,
) -> Verified:
    """Run every check of a policy and write the bundle, whole or not at all.

    Beside the bundle lies its seal, `<out>.seal.json`: written before the first result, it refuses another policy under
    the same name and remembers how often the sealed tests were read. A run that was stopped in the middle of a long
    check goes on with what lies in `<out>.partial/`, which is removed when the bundle is written.

    Args:
        policy: a `Policy` or its file.
        out: the bundle's file; an earlier bundle of the same policy is replaced.
        model, sae: in place of those that the policy names.
        key: Ed25519 private key in PEM, to sign with.
        say: called with a line before each check.

    Raises:
        SealBroken: results exist under another policy. FormatError: the policy is not one.
    """
    chosen = policy if isinstance(policy, Policy) else Policy.load(policy)
    out = Path(out)
    seal = Seal(out.with_name(out.name + ".seal.json"), chosen.sha256)
    if key is not None and not Path(key).is_file():
        raise FileNotFoundError(f"key: there is no file {key}")
    lm, sae = _opened(chosen, model, sae)
    before = _environment(lm, sae)  # before anything runs: what is measured is what is hashed
    scratch = out.with_name(out.name + ".partial")
    context = Context(lm, sae, chosen, seal, scratch, {k: v for k, v in before.items() if k != "created"})
    checks, samples = [], []
    for check in chosen["checks"]:
        if say is not None:
            say(f"{check['name']} ({check['kind']})")
        context.name = check["name"]
        found = KINDS[check["kind"]].run(check, context)
        rules = judge(check.get("rules", []), found.metrics)
        checks.append(
            {
                "name": check["name"],
                "kind": check["kind"],
                "verdict": worst([r["verdict"] for r in rules]),
                "rules": rules,
                "metrics": found.metrics,
                "notes": found.notes,
                "samples": len(found.samples),
                "reads": context.reads.get(check["name"], 0),
            }
        )
        samples += [{"check": check["name"], **sample} for sample in found.samples]
    results = {"verdict": worst([c["verdict"] for c in checks]), "checks": checks}
    archive.write(out, assemble(chosen.body, {**before, "data": context.data}, results, samples, key))
    shutil.rmtree(scratch, ignore_errors=True)
    return verify(out)


def _opened(policy: Policy, model: Any, sae: Any) -> tuple[Any, Any]:
    """The model and the SAE: those that were given, else those that the policy names."""
    if model is None:
        model = load_model(None if policy["model"] is None else policy.path(policy["model"]))
    if sae is None and policy["sae"] is not None:
        sae = sparse_sae.load(policy.path(policy["sae"]))
    return model, sae


def _environment(lm: LanguageModel, sae: Any) -> dict[str, Any]:
    import torch

    versions = {"python": platform.python_version(), "sparse_sae": sparse_sae.__version__}
    for name in ("numpy", "scipy", "torch", "transformers", "tokenizers"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    kernels = sparse_sae.kernels()
    template = getattr(lm.tokenizer, "chat_template", None)
    return {
        "format": "sparse_sae.audit.manifest",
        "version": 1,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": {
            "name": lm.name,
            "sha256": model_sha256(lm.model),
            "dtype": str(lm.dtype).removeprefix("torch."),
            "parameters": int(sum(p.numel() for p in lm.model.parameters())),
            "tokenizer_sha256": tokenizer_sha256(lm.tokenizer),
            "chat_template_sha256": sha256(str(template or "").encode()),
        },
        "sae": None if sae is None else {"sha256": sae_sha256(sae), "description": repr(sae)},
        "code_sha256": code_sha256(),
        "versions": versions,
        "kernels": {
            "level": kernels["level"],
            "threads": kernels["threads"],
            "compiler": str(kernels.get("compiler")),
            "torch_threads": torch.get_num_threads(),
        },
        "cpu": platform.processor() or platform.machine(),
    }


@dataclass
class Rerun:
    """A bundle beside the same policy run again.

    Attributes:
        same: results and samples are equal to the bit.
        environment: what differs in model, SAE, code, versions and kernels: (field, then, now).
        differences: metrics that differ: (check: metric, then, now).
    """

    same: bool
    environment: list[tuple[str, Any, Any]] = field(default_factory=list)
    differences: list[tuple[str, Any, Any]] = field(default_factory=list)


def rerun(
    path: str | Path,
    *,
    directory: str | Path = ".",
    model: LanguageModel | None = None,
    sae: Any = None,
    say: Say | None = None,
) -> Rerun:
    """Verify a bundle, run its policy again, and compare.

    Within a kernel level and with the same versions the bits have to be the same; elsewhere the difference is stated.

    Args:
        directory: what relative paths of the policy start from. model, sae: in place of those that it names.

    Raises:
        FormatError: the bundle does not verify, or model or SAE are not the ones it is about.
    """
    old = verify(path)
    policy = Policy.of(old.policy, Path(directory).resolve(), path)
    lm, sae = _opened(policy, model, sae)
    for what, then, now in (
        ("model", old.manifest["model"]["sha256"], model_sha256(lm.model)),
        ("SAE", (old.manifest["sae"] or {}).get("sha256"), None if sae is None else sae_sha256(sae)),
    ):
        if then != now:
            raise FormatError(f"{path}: the {what}'s SHA-256 is {now}, the bundle is about {then}")
    with tempfile.TemporaryDirectory() as scratch:
        new = run_audit(policy, Path(scratch) / "again.zip", model=lm, sae=sae, say=say)
    same = canonical(_settled(old)) == canonical(_settled(new))
    environment = [
        (f"{part}.{key}", old.manifest[part].get(key), value)
        for part in ("model", "versions", "kernels")
        for key, value in new.manifest[part].items()
        if old.manifest[part].get(key) != value
    ]
    if old.manifest["code_sha256"] != new.manifest["code_sha256"]:
        environment.append(("code_sha256", old.manifest["code_sha256"], new.manifest["code_sha256"]))
    return Rerun(same, environment, [] if same else _differences(old, new))


def _settled(bundle: Verified) -> list[Any]:
    """What a re-run has to give again: everything but how often the test was read."""
    checks = [{k: v for k, v in check.items() if k != "reads"} for check in bundle.results["checks"]]
    return [bundle.results["verdict"], checks, bundle.samples, bundle.manifest["data"]]


def _differences(old: Verified, new: Verified) -> list[tuple[str, Any, Any]]:
    def flat(bundle: Verified) -> dict[str, Any]:
        return {f"{c['name']}: {m['name']}": m for c in bundle.results["checks"] for m in c["metrics"]}

    a, b = flat(old), flat(new)
    found = [(name, a.get(name), b.get(name)) for name in {**a, **b} if a.get(name) != b.get(name)]
    changed = sum(x != y for x, y in zip(old.samples, new.samples, strict=False))
    return [*found, ("samples that differ", 0, changed + abs(len(old.samples) - len(new.samples)))]

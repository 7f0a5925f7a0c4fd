"""A bundle: written from a run, verified without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_sae._io.files import FormatError, open_regular, reading
from sparse_sae.audit import archive
from sparse_sae.audit.chain import link, unlink
from sparse_sae.audit.evallog import eval_log
from sparse_sae.audit.hashes import canonical, code_sha256, sha256
from sparse_sae.audit.page import limitations, page
from sparse_sae.audit.policy import Policy
from sparse_sae.audit.results import judge, recount, worst
from sparse_sae.audit.statement import check_signature, sign, statement

_HASHED = tuple(
    name for name in archive.MEMBERS if name not in ("manifest.json", "statement.json", "signature.json")
)


def assemble(
    policy: Mapping[str, Any],
    environment: Mapping[str, Any],
    results: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
    key: str | Path | None = None,
) -> dict[str, bytes]:
    """The members of a bundle, each determined by what is given.

    Args:
        policy: every field. environment: what `manifest.json` says of model, SAE, data, code and machine.
        key: file of the private key to sign with.
    """
    policy_bytes = canonical(dict(policy))
    lines, head = link(samples, sha256(policy_bytes))
    chain = {"genesis": sha256(policy_bytes), "head": head, "samples": len(samples)}
    manifest: dict[str, Any] = {**environment, "policy_sha256": sha256(policy_bytes), "chain": chain}
    limits = limitations(manifest, policy, results)
    members = {
        "policy.json": policy_bytes,
        "results.json": canonical(dict(results)),
        "samples.jsonl": lines,
        "limitations.md": limits.encode(),
        "report.html": page(manifest, policy, results, limits).encode(),
        "eval.json": canonical(eval_log(manifest, policy, results, samples)),
    }
    manifest["files"] = {name: {"sha256": sha256(c), "bytes": len(c)} for name, c in members.items()}
    members["manifest.json"] = canonical(manifest)
    members["statement.json"] = statement(members, results)
    if key is not None:
        members["signature.json"] = sign(members["statement.json"], key)
    return members


@dataclass(frozen=True)
class Verified:
    """A bundle in which everything follows from everything else.

    Attributes:
        sha256: of the whole file, to be kept elsewhere. signed_by: id of the key, or None: self-attested.
        manifest, policy, results, samples: its contents.
    """

    sha256: str
    signed_by: str | None
    manifest: dict[str, Any]
    policy: dict[str, Any]
    results: dict[str, Any]
    samples: list[dict[str, Any]]


def verify(
    path: str | Path,
    *,
    policy: str | Path | None = None,
    public_key: str | Path | None = None,
    sha256_known: str | None = None,
) -> Verified:
    """Check a bundle without running the model.

    Every byte of the file is accounted for: archive, hashes, chain; rates are counted again from the samples, rules
    judged again, and, where this is the code that made it, report and EvalLog derived again.

    Args:
        policy: a policy file that must be the bundle's.
        public_key: PEM of the key that must have signed it.
        sha256_known: SHA-256 of the file as somebody else kept it.

    Raises:
        FormatError: names what was changed, truncated, added, or does not follow.
    """
    path = Path(path)
    members = archive.read(path)
    with open_regular(path) as file:
        digest = sha256(file.read())
    if sha256_known is not None and digest != sha256_known.lower():
        raise FormatError(f"{path}: its SHA-256 is {digest}, expected {sha256_known}")
    manifest, body, results = (
        archive.document(members, name, path) for name in ("manifest.json", "policy.json", "results.json")
    )
    with reading(path, "an audit bundle"):
        Policy.of(body, path.parent, f"{path}: policy.json")
        if policy is not None and Policy.load(policy).sha256 != manifest["policy_sha256"]:
            raise FormatError(f"{path}: was made under another policy than {policy}")
        chain = manifest["chain"]
        samples = unlink(members["samples.jsonl"], sha256(members["policy.json"]), chain["head"], path)
        _require_counts(path, body, results, samples)
        _require_hashes(path, members, manifest, results)
        if manifest["code_sha256"] == code_sha256():
            _require_derived(path, members, manifest, body, results, samples)
        signed_by = None
        if "signature.json" in members:
            signed_by = check_signature(members["signature.json"], members["statement.json"], public_key)
        elif public_key is not None:
            raise FormatError(f"{path}: is not signed")
    return Verified(digest, signed_by, manifest, body, results, samples)


def _require_hashes(
    path: Path, members: Mapping[str, bytes], manifest: Mapping[str, Any], results: Mapping[str, Any]
) -> None:
    """Members are those of the manifest, and the statement's those of the archive."""
    hashed = {name: {"sha256": sha256(c), "bytes": len(c)} for name, c in members.items() if name in _HASHED}
    if manifest["files"] != hashed or manifest["policy_sha256"] != hashed["policy.json"]["sha256"]:
        changed = [name for name in _HASHED if manifest["files"].get(name) != hashed.get(name)]
        raise FormatError(
            f"{path}: {', '.join(changed) or 'policy.json'}: not the content that the manifest hashed"
        )
    stated = {name: content for name, content in members.items() if name in (*_HASHED, "manifest.json")}
    if statement(stated, results) != members["statement.json"]:
        raise FormatError(
            f"{path}: statement.json does not follow from the other members; it or they were edited"
        )


def _require_derived(
    path: Path,
    members: Mapping[str, bytes],
    manifest: Mapping[str, Any],
    policy: Mapping[str, Any],
    results: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
) -> None:
    """Report, limitations and EvalLog are what this code makes of the rest; other code may lay them out otherwise."""
    given = {k: v for k, v in manifest.items() if k not in ("policy_sha256", "chain", "files")}
    for name, content in assemble(policy, given, results, samples).items():
        if members[name] != content:
            raise FormatError(f"{path}: {name} does not follow from the other members; it was edited")


def _require_counts(
    path: Path, policy: Mapping[str, Any], results: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> None:
    """Rates are those of the samples, and verdicts those of the rules."""
    if [c["name"] for c in results["checks"]] != [c["name"] for c in policy["checks"]]:
        raise FormatError(f"{path}: results.json has other checks than the policy")
    for check, asked in zip(results["checks"], policy["checks"], strict=True):
        own = [sample for sample in samples if sample["check"] == check["name"]]
        for metric in check["metrics"]:
            if not recount(metric, own):
                raise FormatError(f"{path}: {check['name']}: {metric['name']} is not what the samples give")
        judged = judge(asked.get("rules", []), check["metrics"])
        if judged != check["rules"] or check["verdict"] != worst([r["verdict"] for r in judged]):
            raise FormatError(f"{path}: {check['name']}: the verdict does not follow from rules and results")
    if results["verdict"] != worst([check["verdict"] for check in results["checks"]]):
        raise FormatError(f"{path}: the verdict does not follow from those of the checks")

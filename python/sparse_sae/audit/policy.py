"""The policy of an audit: what is checked, on what, and what counts as passing; fixed before there are results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_sae._arguments import one_of, whole
from sparse_sae._io.files import FormatError, read_json
from sparse_sae.audit.hashes import canonical, sha256

FORMAT, VERSION = "sparse_sae.audit.policy", 1
_REQUIRED = ("format", "version", "title", "hook", "checks")
_OPTIONAL = {
    "responsible": "",
    "seed": 0,
    "model": None,
    "sae": None,
    "hypotheses": [],
    "limitations": [],
}
_RULE = {"metric", "field", "at_least", "at_most", "otherwise"}


@dataclass(frozen=True)
class Policy:
    """A policy as read; `body` has every field.

    Attributes:
        sha256: of the canonical JSON, layout aside. directory: what relative paths in it start from.
    """

    body: Mapping[str, Any]
    directory: Path

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON."""
        return sha256(canonical(dict(self.body)))

    def __getitem__(self, key: str) -> Any:
        return self.body[key]

    def path(self, value: str) -> Path:
        """A path of the policy, relative to where the policy lies."""
        return (self.directory / Path(value).expanduser()).resolve()

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy.

        Raises:
            FormatError: names the field that is missing, unknown or of another kind than expected.
        """
        path = Path(path)
        return cls.of(read_json(path), path.resolve().parent, path)

    @classmethod
    def of(cls, body: Mapping[str, Any], directory: Path, path: Any = "policy") -> Policy:
        """A policy from its fields; what may be left out is filled in."""
        from sparse_sae.audit.checks import KINDS

        for name in _REQUIRED:
            if name not in body:
                raise FormatError(f"{path}: no field {name!r}")
        if body["format"] != FORMAT or body["version"] != VERSION:
            raise FormatError(
                f"{path}: format {body['format']!r}, version {body['version']!r}; expected {FORMAT!r}, {VERSION}"
            )
        unknown = sorted(set(body) - {*_REQUIRED, *_OPTIONAL})
        if unknown:
            raise FormatError(
                f"{path}: unknown fields {unknown}; known are {', '.join((*_REQUIRED, *_OPTIONAL))}"
            )
        full = {**_OPTIONAL, **body}
        for name in ("title", "hook", "responsible"):
            if not isinstance(full[name], str):
                raise FormatError(f"{path}: {name}: got {full[name]!r}, expected a text")
        for name in ("hypotheses", "limitations"):
            if not isinstance(full[name], list) or not all(isinstance(t, str) for t in full[name]):
                raise FormatError(f"{path}: {name}: expected a list of sentences")
        whole("seed", full["seed"], least=0)
        checks = full["checks"]
        if not isinstance(checks, list) or not checks:
            raise FormatError(f"{path}: checks: expected a list of at least one")
        names = [check.get("name") if isinstance(check, Mapping) else None for check in checks]
        if not all(isinstance(n, str) and n for n in names) or len(set(names)) < len(names):
            raise FormatError(f"{path}: checks: names {names}, expected a text of its own for each")
        for check in checks:
            _require_check(check, KINDS, path)
        try:
            canonical(full)
        except ValueError as error:
            raise FormatError(f"{path}: {error}") from None
        return cls(full, directory)


def _require_check(check: Mapping[str, Any], kinds: Mapping[str, Any], path: Any) -> None:
    where = f"{path}: check {check['name']!r}"
    one_of(f"{where}: kind", check.get("kind"), kinds, FormatError)
    required, optional = kinds[check["kind"]].fields
    missing = sorted(set(required) - set(check))
    unknown = sorted(set(check) - {"name", "kind", "rules", *required, *optional})
    if missing or unknown:
        raise FormatError(f"{where}: missing {missing}, unknown {unknown}; it takes {[*required, *optional]}")
    rules = check.get("rules", [])
    if not isinstance(rules, list):
        raise FormatError(f"{where}: rules: expected a list")
    for rule in rules:
        good = isinstance(rule, Mapping) and set(rule) <= _RULE and "metric" in rule
        if not good or ("at_least" in rule) == ("at_most" in rule):
            raise FormatError(f"{where}: rule {rule!r}: expected metric, and either at_least or at_most")
        if rule.get("otherwise", "FAILED") not in ("FAILED", "WARNED"):
            raise FormatError(f"{where}: rule {rule!r}: otherwise is FAILED or WARNED")
        if rule.get("field", "value") not in ("value", "low", "high"):
            raise FormatError(f"{where}: rule {rule!r}: field is value, low or high")

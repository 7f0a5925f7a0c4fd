"""Results of checks: metrics that can be counted again from the samples, and the rules that judge them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from sparse_sae.audit.rates import clopper_pearson

Verdict: TypeAlias = Literal["PASSED", "WARNED", "FAILED"]
_WORSE = ("PASSED", "WARNED", "FAILED")


@dataclass
class Result:
    """What a check found.

    Attributes:
        metrics: `rate_metric` and `number_metric`, names once each.
        samples: one a case, plain values; what rates are counted from.
        notes: sentences for the reader.
    """

    metrics: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def rate(self, name: str, counted: str, *, chance: float | None = None, **where: Any) -> None:
        """Add the rate at which the field `counted` of the samples is true, among those where other fields have these
        values. A sample that stands for many has their number as `cases`, and a count in the field."""
        self.metrics.append(rate_metric(self.samples, name, counted, where, chance))

    def number(
        self,
        name: str,
        value: float,
        low: float | None = None,
        high: float | None = None,
        *,
        chance: float | None = None,
    ) -> None:
        """Add a number with its interval.

        Raises:
            ValueError: a NaN or an infinity, which no bundle holds; named by the metric.
        """
        entry: dict[str, Any] = {"name": name, "kind": "number", "value": float(value)}
        entry |= {k: float(v) for k, v in (("low", low), ("high", high), ("chance", chance)) if v is not None}
        bad = [k for k, v in entry.items() if isinstance(v, float) and not math.isfinite(v)]
        if bad:
            raise ValueError(
                f"{name}: {bad[0]} is {entry[bad[0]]}, expected a finite number; nothing is written"
            )
        self.metrics.append(entry)


def rate_metric(
    samples: Sequence[Mapping[str, Any]],
    name: str,
    counted: str,
    where: Mapping[str, Any],
    chance: float | None = None,
) -> dict[str, Any]:
    """A rate as counts, with its interval and with how it was counted."""
    cases = [s for s in samples if counted in s and all(s.get(k) == v for k, v in where.items())]
    if any(int(s[counted]) > int(s.get("cases", 1)) for s in cases):
        raise ValueError(f"samples: {counted!r} counts more cases than there are")
    rate = clopper_pearson(sum(int(s[counted]) for s in cases), sum(int(s.get("cases", 1)) for s in cases))
    entry = {"name": name, "kind": "rate", "counted": counted, "where": dict(where), **rate.to_dict()}
    return entry if chance is None else {**entry, "chance": float(chance)}


def recount(metric: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a rate is what its samples give."""
    if metric["kind"] != "rate":
        return True
    return rate_metric(
        samples, metric["name"], metric["counted"], metric["where"], metric.get("chance")
    ) == dict(metric)


def judge(rules: Sequence[Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each rule with the value it met and its verdict.

    A rule is {"metric", "field": "value" | "low" | "high", "at_least" or "at_most": a number or the name of another
    metric (whose value is meant), "otherwise": "FAILED" or "WARNED"}. A metric that was refused fails the rule.
    """
    values = {m["name"]: m for m in metrics}
    out = []
    for rule in rules:
        key = "at_least" if "at_least" in rule else "at_most"
        limit = rule[key]
        if isinstance(limit, str):
            limit = _value(values.get(limit), "value")
        value = _value(values.get(rule["metric"]), rule.get("field", "value"))
        good = (
            value is not None
            and limit is not None
            and (value >= limit if key == "at_least" else value <= limit)
        )
        verdict = "PASSED" if good else rule.get("otherwise", "FAILED")
        out.append({"rule": dict(rule), "found": value, "limit": limit, "verdict": verdict})
    return out


def _value(metric: Mapping[str, Any] | None, key: str) -> float | None:
    if metric is None:
        return None
    if key == "value" and metric["kind"] == "rate":
        return float(metric["successes"] / metric["n"])
    return None if metric.get(key) is None else float(metric[key])


def worst(verdicts: Sequence[str]) -> Verdict:
    """The worst of several verdicts; PASSED of none.

    >>> worst(["PASSED", "WARNED"])
    'WARNED'
    """
    return _WORSE[max((_WORSE.index(v) for v in verdicts), default=0)]  # type: ignore[return-value]

"""eval.json: the results as an EvalLog that `inspect_ai` opens (version 2 of its log format)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def eval_log(
    manifest: Mapping[str, Any],
    policy: Mapping[str, Any],
    results: Mapping[str, Any],
    samples: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The log: a score for each check, a sample for each case."""
    created = manifest["created"]
    scores = [
        {
            "name": check["name"],
            "scorer": check["kind"],
            "metrics": {
                m["name"]: {
                    "name": m["name"],
                    "value": m["value"] if m["kind"] == "number" else m["successes"] / m["n"],
                }
                for m in check["metrics"]
            },
            "metadata": {"verdict": check["verdict"]},
        }
        for check in results["checks"]
    ]
    log: dict[str, Any] = {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": manifest["policy_sha256"][:22],
            "run_id": manifest["chain"]["head"][:22],
            "task_id": manifest["policy_sha256"][:22],
            "created": created,
            "task": policy["title"],
            "dataset": {"name": policy["title"], "samples": len(samples)},
            "model": f"sparse_sae/{manifest['model']['name'] or 'model'}",
            "config": {},
            "packages": {"sparse_sae": manifest["versions"]["sparse_sae"]},
            "metadata": {"policy_sha256": manifest["policy_sha256"], "verdict": results["verdict"]},
        },
        "results": {"total_samples": len(samples), "completed_samples": len(samples), "scores": scores},
        "stats": {"started_at": created, "completed_at": created},
        "samples": [
            {
                "id": number + 1,
                "epoch": 1,
                "input": str(sample.get("text", "")),
                "target": str(sample.get("label", "")),
                "scores": {
                    sample["check"]: {
                        "value": {k: v for k, v in sample.items() if isinstance(v, bool | int | float)} or 0,
                    }
                },
                "metadata": {k: v for k, v in sample.items() if k not in ("text", "label")},
            }
            for number, sample in enumerate(samples)
        ],
    }
    return log

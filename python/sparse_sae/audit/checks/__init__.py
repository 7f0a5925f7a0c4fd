"""The kinds of check that a policy may ask for; a kind's module is imported when it runs, so reading needs no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from sparse_sae.audit.results import Result


@dataclass(frozen=True)
class Kind:
    """A kind of check.

    Attributes:
        module: where its `run(check, context)` is. fields: names of its required and of its optional parameters.
    """

    module: str
    fields: tuple[tuple[str, ...], tuple[str, ...]]

    def run(self, check: Mapping[str, Any], context: Any) -> Result:
        """Run a check of this kind."""
        found: Result = import_module(f"{__name__}.{self.module}").run(check, context)
        return found


KINDS = {
    "detection": Kind("detection", (("data",), ("kinds", "fprs", "test_share", "folds"))),
    "choices": Kind("choices", (("set",), ("n",))),
    "generation": Kind("generation", (("set",), ("n", "new_tokens"))),
    "latent": Kind(
        "latent",
        (("data", "latent", "choices"), ("strength", "controls", "benign_texts", "over_refusal", "n")),
    ),
    "decision": Kind(
        "decision",
        (
            ("data", "development", "outcomes"),
            ("strength", "controls", "block", "batch_size", "compute_dtype"),
        ),
    ),
}

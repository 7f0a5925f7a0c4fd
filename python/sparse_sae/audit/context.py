"""What a check is given: model, SAE, policy, and the seal of its test sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparse_sae.audit.examples import Seal
from sparse_sae.audit.features import Features, text_features
from sparse_sae.audit.hashes import sha256_of
from sparse_sae.audit.kept import Kept
from sparse_sae.audit.policy import Policy
from sparse_sae.lm.model.loading import LanguageModel


class Context:
    """Shared by the checks of one run.

    Attributes:
        lm, sae, policy: what is audited, by what. name: the running check.
        data: name of a data set -> what it is and its SHA-256, for the manifest.
        reads: check -> how often its sealed test was read under this policy.
        chosen: "check: kind of detector" -> latent, for checks that come later.

    Args:
        scratch: where parts of long checks are kept until the bundle is written. environment: what they depend on
            besides policy and data: model, SAE, code, versions, kernels.
    """

    def __init__(
        self, lm: LanguageModel, sae: Any, policy: Policy, seal: Seal, scratch: Path, environment: Any
    ) -> None:
        self.lm, self.sae, self.policy, self.name = lm, sae, policy, ""
        self.data: dict[str, Any] = {}
        self.reads: dict[str, int] = {}
        self.chosen: dict[str, int] = {}
        self._seal, self._scratch, self._environment = seal, scratch, environment

    @property
    def hook(self) -> str:
        """The policy's hook point."""
        return str(self.policy["hook"])

    @property
    def seed(self) -> int:
        """The policy's seed."""
        return int(self.policy["seed"])

    def need_sae(self) -> Any:
        """The SAE, or a ValueError that says who needs it."""
        if self.sae is None:
            raise ValueError(f"sae: the policy names none, and {self.name!r} needs one")
        return self.sae

    def latent(self, value: Any) -> int:
        """A latent that a check names by its number, or by the earlier check that chose it.

        Raises:
            ValueError: no earlier check chose one under that name.
        """
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if value not in self.chosen:
            raise ValueError(f"latent: got {value!r}, expected a number or one of {sorted(self.chosen)}")
        return self.chosen[value]

    def note_data(self, what: str, sha256: str, **more: Any) -> None:
        """Record a data set in the manifest."""
        self.data[f"{self.name}: {what}"] = {"sha256": sha256, **more}

    def read_test(self, sha256: str) -> None:
        """Record that a sealed test is read."""
        self.reads[self.name] = self._seal.read(self.name, sha256)

    def features(self, prompts: Sequence[Any]) -> Features:
        """Pooled activations and latents of prompts at the policy's hook point; what an earlier run read is not read
        again."""
        memory = self.kept([self.hook, "features"])
        return text_features(self.lm, prompts, self.hook, self.sae, memory=memory)

    def kept(self, what: Any) -> Kept:
        """Parts of a check that an earlier run has left, on the same model, SAE, code, versions and kernels.

        Args:
            what: JSON of everything else that decides them, and that is not in their names.
        """
        return Kept(self._scratch, sha256_of([self._environment, what]))

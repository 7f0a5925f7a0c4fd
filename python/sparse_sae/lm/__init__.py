"""Language models: load, capture, explain, steer, measure.

    from sparse_sae.lm import load_model, capture, explain, steer

The rooms are `model` (loading, hook points, prompts), `harvest` (activations to disk or to training), `steering`,
`explaining` and `studies` (quality, cards, experiments, doses). A name is imported when it is first used, and this is
the only part of the package that imports torch and transformers, which come with the extra `lm`:
`pip install "sparse-sae[lm]"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparse_sae._lazy import public

if TYPE_CHECKING:
    from sparse_sae.lm.explaining.attribution import explain as explain
    from sparse_sae.lm.explaining.explanation import Effect as Effect, Explanation as Explanation
    from sparse_sae.lm.explaining.labels import LatentLabel as LatentLabel, label_latents as label_latents
    from sparse_sae.lm.explaining.logit_lens import direct_logits as direct_logits
    from sparse_sae.lm.explaining.reasons import Reason as Reason, why as why
    from sparse_sae.lm.harvest.corpus import english_documents as english_documents
    from sparse_sae.lm.harvest.recording import CaptureProgress as CaptureProgress, capture as capture
    from sparse_sae.lm.harvest.streaming import ActivationStream as ActivationStream, stream as stream
    from sparse_sae.lm.model.engine import Engine as Engine, Transformers as Transformers
    from sparse_sae.lm.model.generation import generate as generate
    from sparse_sae.lm.model.hook_point import HookPoint as HookPoint
    from sparse_sae.lm.model.hooks import (
        hook_names as hook_names,
        read_hooks as read_hooks,
        resolve as resolve,
    )
    from sparse_sae.lm.model.loading import LanguageModel as LanguageModel, load_model as load_model
    from sparse_sae.lm.steering.interventions import (
        Steering as Steering,
        steer as steer,
        steer_direction as steer_direction,
    )
    from sparse_sae.lm.steering.reconstruction import reconstruct as reconstruct
    from sparse_sae.lm.studies.card import Card as Card, Labelled as Labelled, benchmark as benchmark
    from sparse_sae.lm.studies.dose import DoseResponse as DoseResponse, dose_response as dose_response
    from sparse_sae.lm.studies.experiments import (
        Experiment as Experiment,
        decisions as decisions,
        experiment as experiment,
    )
    from sparse_sae.lm.studies.judge import Judge as Judge, calibrated_judge as calibrated_judge
    from sparse_sae.lm.studies.quality import (
        ModelQuality as ModelQuality,
        model_quality as model_quality,
        randomise as randomise,
    )
    from sparse_sae.lm.studies.reuse import reuse_below as reuse_below
    from sparse_sae.lm.studies.scores import choice_logprobs as choice_logprobs, score_texts as score_texts

# module -> its public names; the same as above, for the running program
_MODULES = {
    "explaining.attribution": ("explain",),
    "explaining.explanation": ("Effect", "Explanation"),
    "explaining.labels": ("LatentLabel", "label_latents"),
    "explaining.logit_lens": ("direct_logits",),
    "explaining.reasons": ("Reason", "why"),
    "harvest.corpus": ("english_documents",),
    "harvest.recording": ("CaptureProgress", "capture"),
    "harvest.streaming": ("ActivationStream", "stream"),
    "model.engine": ("Engine", "Transformers"),
    "model.generation": ("generate",),
    "model.hook_point": ("HookPoint",),
    "model.hooks": ("hook_names", "read_hooks", "resolve"),
    "model.loading": ("LanguageModel", "load_model"),
    "steering.interventions": ("Steering", "steer", "steer_direction"),
    "steering.reconstruction": ("reconstruct",),
    "studies.card": ("Card", "Labelled", "benchmark"),
    "studies.dose": ("DoseResponse", "dose_response"),
    "studies.experiments": ("Experiment", "decisions", "experiment"),
    "studies.judge": ("Judge", "calibrated_judge"),
    "studies.quality": ("ModelQuality", "model_quality", "randomise"),
    "studies.reuse": ("reuse_below",),
    "studies.scores": ("choice_logprobs", "score_texts"),
}
_PUBLIC = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    return public(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return __all__

"""Language models: hook points, captured activations, texts to capture them on.

Nothing here is imported before it is used, and this is the only part of the package that imports torch
and transformers. They come with the extra `lm`: `pip install "sparse-sae[lm]"`.

The functions `capture`, `tickets`, `explain`, `steer` and `experiment` are in modules of their own names:
`from sparse_sae.lm.capture import capture`, `from sparse_sae.lm.steer import steer`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# public name -> module; a new module of this folder adds its names here (not one equal to a module's name)
_PUBLIC = {
    "LanguageModel": "models",
    "load_model": "models",
    "HookPoint": "hooks",
    "hook_names": "hooks",
    "read_hooks": "hooks",
    "resolve": "hooks",
    "stream": "streaming",
    "english_documents": "corpus",
    "Ticket": "tickets",
    "choice_logprobs": "score",
    "score_texts": "score",
    "steer_direction": "steer",
    "model_quality": "quality",
    "randomise": "quality",
    "direct_logits": "lens",
    "decisions": "experiment",
    "dose_response": "dose",
    "reuse_below": "reuse",
}
_EXTRA_PACKAGES = {"torch", "transformers", "safetensors", "gguf"}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    module_name = _PUBLIC.get(name)
    if module_name is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{module_name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA_PACKAGES:
            raise
        raise ImportError(
            f"sparse_sae.lm.{name} needs the package {missing!r}, which is not installed. "
            'It comes with an extra: pip install "sparse-sae[lm]"'
        ) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

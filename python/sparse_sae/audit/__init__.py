"""Audit: watch-lists of latents and directions, monitors, and reports that another person re-runs.

    from sparse_sae.audit import Watch, WatchList, monitor

A name is imported when it is first used. Files are hashed as RFC 8785 says, with a package of the extra `audit`:
`pip install "sparse-sae[audit]"`; what runs a model needs the extra `lm` too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparse_sae._lazy import public

if TYPE_CHECKING:
    from sparse_sae.audit.choosing import (
        choose as choose,
        watch_explanation as watch_explanation,
        watch_labels as watch_labels,
    )
    from sparse_sae.audit.events import Event as Event, GenerationStopped as GenerationStopped, Steer as Steer
    from sparse_sae.audit.examples import Examples as Examples, Seal as Seal, divide as divide
    from sparse_sae.audit.features import Features as Features, text_features as text_features
    from sparse_sae.audit.live import LiveMonitor as LiveMonitor, monitor as monitor
    from sparse_sae.audit.observer import Monitor as Monitor
    from sparse_sae.audit.rates import (
        Rate as Rate,
        auroc_interval as auroc_interval,
        clopper_pearson as clopper_pearson,
        operating_point as operating_point,
    )
    from sparse_sae.audit.watchlist import Watch as Watch, WatchList as WatchList

# module -> its public names; the same as above, for the running program
_MODULES = {
    "rates": ("Rate", "auroc_interval", "clopper_pearson", "operating_point"),
    "features": ("Features", "text_features"),
    "examples": ("Examples", "Seal", "divide"),
    "choosing": ("choose", "watch_explanation", "watch_labels"),
    "events": ("Event", "GenerationStopped", "Steer"),
    "live": ("LiveMonitor", "monitor"),
    "observer": ("Monitor",),
    "watchlist": ("Watch", "WatchList"),
}
_PUBLIC = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_PUBLIC)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return public(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return __all__

"""Audit: watch-lists of latents and directions, monitors, and reports that another person re-runs.

    from sparse_sae.audit import Watch, WatchList, monitor

A name is imported when it is first used. Files are hashed as RFC 8785 says, with a package of the extra `audit`:
`pip install "sparse-sae[audit]"`; what runs a model needs the extra `lm` too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._lazy import public

if TYPE_CHECKING:
    from .choosing import choose as choose
    from .choosing import watch_explanation as watch_explanation
    from .choosing import watch_labels as watch_labels
    from .events import Event as Event
    from .events import GenerationStopped as GenerationStopped
    from .events import Steer as Steer
    from .examples import Examples as Examples
    from .examples import Seal as Seal
    from .examples import divide as divide
    from .features import Features as Features
    from .features import text_features as text_features
    from .live import LiveMonitor as LiveMonitor
    from .live import monitor as monitor
    from .observer import Monitor as Monitor
    from .rates import Rate as Rate
    from .rates import auroc_interval as auroc_interval
    from .rates import clopper_pearson as clopper_pearson
    from .rates import operating_point as operating_point
    from .watchlist import Watch as Watch
    from .watchlist import WatchList as WatchList

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

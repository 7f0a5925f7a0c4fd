"""What a monitor reads of a watch-list: directions, latents, both, or directions first and latents to explain them."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from sparse_sae._arguments import one_of
from sparse_sae.audit.readout import Readout
from sparse_sae.audit.watchlist import WatchList

Detect: TypeAlias = Literal["directions", "latents", "both", "cascade"]


def readouts(
    watch: WatchList, sae: Any, asked: Detect | None
) -> tuple[Detect, list[Readout], Readout | None]:
    """How it detects, what is read on every token, and what is read to explain an event.

    Raises:
        ValueError: the SAE is not the list's, or the list does not have what was asked for.
    """
    detect = _detect(watch, asked)
    latents = None
    if detect != "directions":
        watch.require(sae)
        latents = Readout(watch.latents, sae, exact=watch.exact)
    every = [] if detect == "latents" else [Readout(watch.directions)]
    if latents is not None and detect in ("latents", "both"):
        every.append(latents)
    return detect, every, latents if detect == "cascade" else None


def _detect(watch: WatchList, asked: Detect | None) -> Detect:
    if asked is None:
        return (
            "cascade"
            if watch.directions and watch.latents
            else "directions"
            if watch.directions
            else "latents"
        )
    one_of("detect", asked, Detect)
    if asked != "latents" and not watch.directions:
        raise ValueError(f"detect: {asked!r} needs directions, and the watch-list has none")
    if asked != "directions" and not watch.latents:
        raise ValueError(f"detect: {asked!r} needs latents, and the watch-list has none")
    return asked

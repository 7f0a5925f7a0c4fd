"""Several hook points side by side: the same tokens in the same order."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from sparse_sae.data.store.index import rows_of_chunk
from sparse_sae.data.store.reader import ActivationStore


def aligned(stores: Sequence[ActivationStore]) -> list[ActivationStore]:
    """Views of stores of one capture whose i-th rows are of the same token, in every order they are read.

    A token left out of one store (a massive activation there) is left out of all. For crosscoders and
    transcoders, which read several hook points side by side.

    Args:
        stores: as `capture` returns them for several hook points, or selections of them.

    Raises:
        ValueError: they are not of the same tokens.

    >>> mlp_in, mlp_out = aligned([stores["blocks.3.hook_resid_mid"], stores["blocks.3.hook_mlp_out"]])
    ... # doctest: +SKIP
    """
    layouts = [[(shard["rows"], shard["state"]) for shard in store.manifest["shards"]] for store in stores]
    if any(layout != layouts[0] for layout in layouts):
        raise ValueError("stores: they are not of one capture (their shards hold other tokens)")
    views = []
    for store in stores:
        view = copy.copy(store)
        view._siblings = [other for other in stores if other is not store]
        view._chunk_rows = min(rows_of_chunk(other.d_in) for other in stores)
        view._index = view._build()
        views.append(view)
    return views

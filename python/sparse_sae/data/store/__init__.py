"""Activations on disk: written in shards while a model runs, read back shuffled and in bounded memory.

A store is a directory: `shard-00000.safetensors`, … and a `manifest.json` that says what they hold.

| tensor of a shard | shape | |
|---|---|---|
| `rows` | (n, d_in) | the activations, as float32, float16, bfloat16 or int8 |
| `scale` | (n,) float32 | int8 only: rows × scale are the activations |
| `tokens` | (n,) int32 | the token read at that position |
| `positions` | (n,) int32 | the position in its sequence, from 0 |
| `documents` | (n,) int32 | which text it comes from, from 0 |
| `flags` | (n,) uint8 | 1 first position of a sequence, 2 padding |
| `norms` | (n,) float32 | Euclidean norm of the row |
| `errors` | (n,) float32 | squared distance between the row and what is stored of it (not with float32) |

No torch is needed here, and any safetensors reader opens the shards.
"""

from sparse_sae.data.store.align import aligned
from sparse_sae.data.store.reader import ActivationStore
from sparse_sae.data.store.statistics import massive_threshold
from sparse_sae.data.store.writer import StoreWriter

__all__ = ["ActivationStore", "StoreWriter", "aligned", "massive_threshold"]

"""Train from a file on disk, be stopped half way, and go on to the same bits: seconds here, days elsewhere.

python examples/larger_than_memory.py work-directory
"""

import sys
from pathlib import Path

import numpy as np

import sparse_sae
from sparse_sae.synthetic import superposition


def main(work, blocks=20, rows=5_000):
    work = Path(work)
    world = superposition(128, 32, probability=0.06, noise=0.02, seed=0)
    work.mkdir(parents=True, exist_ok=True)
    x = np.lib.format.open_memmap(work / "x.npy", "w+", np.float16, (blocks * rows, 32))
    for number in range(blocks):  # one block in memory at a time
        x[number * rows : (number + 1) * rows] = world.block(number, rows).x
    print(f"{len(x):,} rows of {x.shape[1]} in {x.filename}")

    def train(out, **how):
        return sparse_sae.train(
            x,
            sparse_sae.TopK(k=8),
            d_sae=256,
            n_tokens=2 * len(x),
            out=work / out,
            checkpoint_every=20,
            progress=False,
            **how,
        )

    whole = train("whole")
    stopped = train("stopped", callback=lambda record: record["tokens"] < len(x))
    print(f"stopped ({stopped.stop_reason}) after {stopped.tokens:,} of {whole.tokens:,} rows")
    resumed = train("stopped", resume=True)
    same = all(np.array_equal(resumed.sae.rows[name], whole.sae.rows[name]) for name in whole.sae.rows)
    print(f"resumed: {'bit-identical to' if same else 'DIFFERENT from'} the run that was not stopped")
    return same


if __name__ == "__main__":
    main(sys.argv[1])

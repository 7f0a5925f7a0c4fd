"""Other libraries on the same work: one training step and one encode, same shapes, same k, Adam, unit-norm decoder.

Runs in an environment of its own, which has the libraries and not us, and prints JSON:

    pip install torch==2.13.0 eai-sparsify==1.3.3 dictionary-learning==0.1.0 sae-lens==6.54.12
    pip uninstall torchvision        # where it is of another torch
    python benchmarks/compare/peers.py --sizes small medium

Each library is used through its own training code. Work is made equal where defaults differ: Adam everywhere,
AuxK idle (nothing is dead), no Multi-TopK, no logging. `torch` is the textbook loop in plain PyTorch. The float32
product of the encoder's shape is timed in the same turns, so that ratios can be joined with other runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")

import torch
from torch import nn

SIZES = {"small": (1024, 64, 1024, 8), "medium": (4096, 576, 9216, 32), "large": (4096, 768, 32768, 32)}
Pair = tuple[Callable[[], Any], Callable[[], Any]]  # a step, an encode


def sparsify(x: torch.Tensor, d: int, m: int, k: int) -> Pair:
    """eai-sparsify: the step of Trainer.fit, without its data loading."""
    from sparsify import SparseCoder, SparseCoderConfig

    sae = SparseCoder(d, SparseCoderConfig(num_latents=m, k=k))
    adam = torch.optim.Adam(sae.parameters(), lr=1e-4)

    def step() -> None:
        sae.set_decoder_norm_to_unit_norm()
        sae(x).fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()

    return step, lambda: sae.encode(x)


def dictionary_learning(x: torch.Tensor, d: int, m: int, k: int) -> Pair:
    """dictionary_learning: TopKTrainer.update."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(10**6, d, m, k, layer=0, lm_name="none", lr=1e-4, decay_start=None, device="cpu")
    return lambda: trainer.update(1, x), lambda: trainer.ae.encode(x, use_threshold=False)


def sae_lens(x: torch.Tensor, d: int, m: int, k: int) -> Pair:
    """SAELens: the step of SAETrainer, without its data loading and logging."""
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d, d_sae=m, k=k, device="cpu"))
    adam = torch.optim.Adam(sae.parameters(), lr=1e-4)
    dead = torch.zeros(m, dtype=torch.bool)

    def step() -> None:
        given = TrainStepInput(x, {}, dead, n_training_steps=1, is_logging_step=False)
        sae.training_forward_pass(given).loss.backward()
        nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        adam.step()
        adam.zero_grad()

    return step, lambda: sae.encode(x)


def plain_torch(x: torch.Tensor, d: int, m: int, k: int) -> Pair:
    """The textbook loop: dense codes, autograd, Adam, unit-norm decoder."""
    encoder, decoder = nn.Linear(d, m), nn.Linear(m, d)
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-4)

    def encode() -> torch.Tensor:
        values, indices = torch.relu(encoder(x - decoder.bias)).topk(k, sorted=False)
        return torch.zeros(len(x), m).scatter(1, indices, values)

    def step() -> None:
        ((decoder(encode()) - x) ** 2).sum(dim=1).mean().backward()
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            decoder.weight /= decoder.weight.norm(dim=0, keepdim=True)

    return step, encode


PEERS = {
    "sparsify": ("eai-sparsify", sparsify),
    "dictionary_learning": ("dictionary-learning", dictionary_learning),
    "SAELens": ("sae-lens", sae_lens),
    "torch": ("torch", plain_torch),
}


def installed(package: str) -> bool:
    """Whether this environment has a library; those that it lacks are left out."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def measure(size: tuple[int, int, int, int], repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of each library's step and encode, and of the product, taken in turns."""
    n, d, m, k = size
    torch.manual_seed(0)
    x = torch.randn(n, d)
    a, b = torch.randn(n, d), torch.randn(m, d)
    out: dict[str, dict[str, float]] = {}
    for name, (package, make) in PEERS.items():  # one library in memory at a time
        if not installed(package):
            continue
        step, encode = make(x, d, m, k)

        def encoding(encode: Callable[[], Any] = encode) -> None:
            with torch.no_grad():
                encode()

        tasks = {"step": step, "encode": encoding, "product": lambda: a @ b.T}
        for task in tasks.values():
            task()
        times: dict[str, list[float]] = {task: [] for task in tasks}
        for _ in range(repeats):
            for task, call in tasks.items():
                turn = time.perf_counter()
                while True:  # a short task several times, as sparse_sae.bench does
                    start = time.perf_counter()
                    call()
                    now = time.perf_counter()
                    times[task].append(now - start)
                    if now - turn > 0.1:
                        break
        out[name] = {task: statistics.median(values) for task, values in times.items()}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "medium"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = SimpleNamespace(**vars(parser.parse_args()))
    torch.set_num_threads(options.threads)
    found = {name: measure(SIZES[name], options.repeats) for name in options.sizes}
    versions = {name: version(package) for name, (package, _) in PEERS.items() if installed(package)}
    print(json.dumps({"threads": options.threads, "versions": versions, "seconds": found}))


if __name__ == "__main__":
    main()

"""Commands on arrays and saved SAEs: evaluate, info, bench."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparse_sae import evaluate, kernels, load
from sparse_sae._io.atomic import write_json
from sparse_sae.cli._parsing import AddCommand, one_or_tuple
from sparse_sae.data.opening import open_path


def add_evaluate(add: AddCommand) -> None:
    """`sparse-sae evaluate`."""
    score = add("evaluate", _evaluate, "measure an SAE on activations")
    score.add_argument("sae", type=Path, help="directory of a saved SAE")
    score.add_argument(
        "data",
        nargs="+",
        help="file.npy (.npz, .safetensors) or store directory; a transcoder needs input and output",
    )
    score.add_argument(
        "--other", nargs="+", metavar="DATA", help="data of another kind: were the training data too narrow?"
    )
    score.add_argument(
        "--seeds",
        nargs="+",
        type=Path,
        default=[],
        metavar="SAE",
        help="SAEs of other seeds: are latents stable?",
    )
    score.add_argument("--truth", metavar="FILE", help="true features (n, d) as .npy: are they found?")
    score.add_argument(
        "--control",
        nargs=2,
        action="append",
        default=[],
        metavar=("SAE", "DATA"),
        help="an SAE trained alike on data without features, and its held-out data: is it as good?",
    )
    score.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")


def add_info(add: AddCommand) -> None:
    """`sparse-sae info`."""
    info = add("info", _info, "describe a saved SAE, or this installation")
    info.add_argument("sae", type=Path, nargs="?", help="directory of a saved SAE")


def add_bench(add: AddCommand) -> None:
    """`sparse-sae bench`."""
    bench = add(
        "bench", _bench, "time the kernels on this machine, beside plain matrix products of the same size"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    bench.add_argument(
        "--sizes", nargs="+", metavar="SIZE", help="small, medium, large, real, row; all unless given"
    )
    bench.add_argument("--threads", type=int, metavar="N", help="all cores unless given")
    bench.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="results by CPU family: name what became slower than they are",
    )


def _evaluate(options: argparse.Namespace) -> int:
    sae = load(options.sae)
    metrics = evaluate(
        sae,
        *options.data,
        other=one_or_tuple(options.other) if options.other else None,
        seeds=[load(p) for p in options.seeds],
        truth=None if options.truth is None else open_path(options.truth, "--truth"),
        controls={data: (load(control), data) for control, data in options.control},
    )
    print(metrics)
    if options.json:
        write_json(options.json, metrics.to_dict())
    return 0


def _info(options: argparse.Namespace) -> int:
    if options.sae is None:
        for name, value in kernels().items():
            print(f"{name:10} {value}")
        return 0
    sae = load(options.sae)
    print(sae)
    for name, array in sae.params.items():
        print(f"{name:10} {array.shape} {array.dtype}")
    for name, value in sae.metadata.items():
        print(f"{name:10} {value}")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from sparse_sae import bench

    return bench.main(options.json, tuple(options.sizes or bench.ALL), options.threads, options.against)

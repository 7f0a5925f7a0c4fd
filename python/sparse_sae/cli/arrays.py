"""Commands on arrays and saved SAEs: train, evaluate, info, bench."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .. import ARCHITECTURES, Coder, TrainingInterrupted, evaluate, kernels, load, train
from .._io.atomic import write_json
from ..data.opening import open_path
from ._parsing import AddCommand, count, settings


def add_train(add: AddCommand) -> None:
    """`sparse-sae train`."""
    fit = add("train", _train, "train on an array or a directory of captured activations")
    fit.add_argument(
        "data",
        nargs="+",
        help="file.npy (.npz, .safetensors) or store directory; two for a transcoder: input, output",
    )
    fit.add_argument(
        "--out", type=Path, required=True, help="directory for checkpoints, history.jsonl and the SAE"
    )
    fit.add_argument(
        "--architecture",
        choices=[name for name, made in sorted(ARCHITECTURES.items()) if made.trainable],
        default="topk",
    )
    fit.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an architecture's parameter, such as k=64",
    )
    fit.add_argument("--k", type=count, help="short for --set k=…")
    fit.add_argument("--coder", choices=("sae", "transcoder", "crosscoder"), default="sae")
    fit.add_argument("--skip", action="store_true", help="a transcoder's linear skip")
    fit.add_argument("--d-sae", type=count, required=True, help="number of latents")
    fit.add_argument("--tokens", type=count, required=True, help="rows to train on, repeats included")
    fit.add_argument("--batch-size", type=count)
    fit.add_argument("--lr", type=float)
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("--normalize", default="scale", help="scale, none, whiten, token_norm or layer_norm")
    fit.add_argument("--checkpoint-every", type=count, default=200, help="steps")
    fit.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    fit.add_argument("--overwrite", action="store_true", help="replace another run in --out")
    fit.add_argument("--threads", type=int)
    fit.add_argument("--profile", action="store_true", help="print seconds by phase at the end")


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
        "--control", nargs=2, action="append", default=[], metavar=("SAE", "DATA"),
        help="an SAE trained alike on data without features, and its held-out data: is it as good?",
    )  # fmt: skip
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


def _one_or_tuple(paths: list[str]) -> str | tuple[str, ...]:
    return paths[0] if len(paths) == 1 else tuple(paths)


def _train(options: argparse.Namespace) -> int:
    chosen = ARCHITECTURES[options.architecture]
    values = settings(options.set, "--set")
    if options.k is not None:
        values["k"] = options.k
    try:
        architecture = chosen(**values)
    except TypeError:
        raise ValueError(
            f"--set: {options.architecture} has no such parameter among {', '.join(values)}; "
            f"it has {', '.join(chosen().config())}"
        ) from None
    try:
        result = train(
            _one_or_tuple(options.data), architecture, d_sae=options.d_sae, n_tokens=options.tokens,
            batch_size=options.batch_size, coder=Coder(options.coder, options.skip), lr=options.lr, seed=options.seed,
            normalize=options.normalize, out=options.out, checkpoint_every=options.checkpoint_every,
            resume=options.resume, overwrite=options.overwrite, num_threads=options.threads,
        )  # fmt: skip
    except TrainingInterrupted as interrupted:
        print(
            f"interrupted after {interrupted.result.tokens:,} tokens; go on with the same command and --resume",
            file=sys.stderr,
        )
        return 130
    if options.profile:
        _print_profile(result.history)
    last = result.history[-1]
    print(
        f"{options.out / 'sae'}: FVU {last['fvu']:.4f}, L0 {last['l0']:.1f}, dead {last['dead_fraction']:.2%}"
    )
    return 0


def _print_profile(history: list[dict[str, Any]]) -> None:
    totals: dict[str, float] = {}
    for record in history:
        for name, seconds in record["seconds"].items():
            totals[name] = totals.get(name, 0.0) + seconds
    whole = sum(totals.values()) or 1.0
    for name, seconds in sorted(totals.items(), key=lambda item: -item[1]):
        print(f"{name:24} {seconds:9.2f} s {seconds / whole:6.1%}")


def _evaluate(options: argparse.Namespace) -> int:
    sae = load(options.sae)
    metrics = evaluate(
        sae, *options.data,
        other=_one_or_tuple(options.other) if options.other else None,
        seeds=[load(p) for p in options.seeds],
        truth=None if options.truth is None else open_path(options.truth, "--truth"),
        controls={data: (load(control), data) for control, data in options.control},
    )  # fmt: skip
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
    from .. import bench

    return bench.main(options.json, tuple(options.sizes or bench.ALL), options.threads, options.against)

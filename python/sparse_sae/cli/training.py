"""`sparse-sae train`: a run from a file, from the command line, or from both."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from sparse_sae import ARCHITECTURES, TrainConfig, TrainingInterrupted, train
from sparse_sae._arguments import field_types, known_names
from sparse_sae._io.values import read_values
from sparse_sae.cli._parsing import AddCommand, count, one_or_tuple, settings

# What has an option of its own, or none on the command line.
_APART = ("architecture", "coder", "betas", "resampling", "metadata", "n_tokens")


def add_train(add: AddCommand) -> None:
    """`sparse-sae train`."""
    fit = add("train", _train, "train on an array or a directory of captured activations")
    fit.add_argument(
        "data",
        nargs="*",
        help="file.npy (.npz, .safetensors) or store directory; two for a transcoder: input, output",
    )
    fit.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=".yaml or .json with the fields of TrainConfig, data and out; options given beside it come first",
    )
    fit.add_argument("--out", type=Path, help="directory for checkpoints, history.jsonl and the SAE")
    fit.add_argument(
        "--architecture",
        choices=sorted(ARCHITECTURES),
        help="topk unless given",
    )
    fit.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an architecture's parameter, such as k=64",
    )
    fit.add_argument("--k", type=count, help="short for --set k=…")
    fit.add_argument("--coder", choices=("sae", "transcoder", "crosscoder"), help="sae unless given")
    fit.add_argument("--skip", action="store_true", help="a transcoder's linear skip")
    fit.add_argument("--tokens", dest="n_tokens", type=count, help="rows to train on, repeats included")
    explained, types = _explained(), field_types(TrainConfig)
    for field in fields(TrainConfig):
        if field.name not in _APART:
            _add_field(fit, field.name, types[field.name], explained[field.name])
    fit.set_defaults(wrong=fit.error)
    fit.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    fit.add_argument("--overwrite", action="store_true", help="replace another run in --out")
    fit.add_argument("--threads", type=int, help="all cores unless given; results do not depend on it")
    fit.add_argument("--profile", action="store_true", help="print seconds by phase at the end")


def _add_field(parser: argparse.ArgumentParser, name: str, hint: Any, text: str) -> None:
    """An option for a field of the config; its type, choices and words are those of the field."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    how: dict[str, Any] = {"type": count if kinds == [int] and name not in ("seed", "part") else kinds[0]}
    if get_origin(hint) is Literal:
        how = {"choices": get_args(hint)}
    parser.add_argument(f"--{name.replace('_', '-')}", help=text.replace("%", "%%"), **how)


def _explained() -> dict[str, str]:
    """What the docstring of `TrainConfig` says of each field."""
    arguments = (TrainConfig.__doc__ or "").partition("Args:")[2].partition("Raises:")[0]
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", arguments, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """Fields of the config, data and out: those of the file, and over them those of the command line."""
    asked = {} if options.config is None else read_values(options.config)
    known = [field.name for field in fields(TrainConfig)]
    known_names("config", asked, [*known, "data", "out"])
    for name in (*known, "out"):
        value = getattr(options, name, None)
        if value is not None and name not in ("architecture", "coder"):
            asked[name] = value
    if options.data:
        asked["data"] = options.data
    asked["architecture"] = _architecture(options, asked.get("architecture"))
    if options.coder is not None or options.skip:
        asked["coder"] = {"kind": options.coder or "transcoder", "skip": options.skip}
    for name, how in (("data", "DATA"), ("out", "--out"), ("d_sae", "--d-sae"), ("n_tokens", "--tokens")):
        if asked.get(name) is None:
            options.wrong(f"{name}: missing; give {how}, or {name} in the file of --config")
    return asked


def _architecture(options: argparse.Namespace, given: Any) -> dict[str, Any]:
    """Name and hyperparameters; those of the command line come before those of the file."""
    values: dict[str, Any] = dict(given) if isinstance(given, dict) else {"name": given or "topk"}
    if options.architecture is not None and options.architecture != values.get("name"):
        values = {"name": options.architecture}
    values |= settings(options.set, "--set")
    if options.k is not None:
        values["k"] = options.k
    return values


def _train(options: argparse.Namespace) -> int:
    asked = _asked(options)
    data, out = asked.pop("data"), Path(asked.pop("out"))
    try:
        result = train(
            data if isinstance(data, str) else one_or_tuple(list(data)),
            config=TrainConfig.from_dict(asked),
            out=out,
            resume=options.resume,
            overwrite=options.overwrite,
            num_threads=options.threads,
        )
    except TrainingInterrupted as interrupted:
        print(
            f"interrupted after {interrupted.result.tokens:,} tokens; go on with the same command and --resume",
            file=sys.stderr,
        )
        return 130
    if options.profile:
        _print_profile(result.history)
    last = result.history[-1]
    print(f"{out / 'sae'}: FVU {last['fvu']:.4f}, L0 {last['l0']:.1f}, dead {last['dead_fraction']:.2%}")
    return 0


def _print_profile(history: list[dict[str, Any]]) -> None:
    totals: dict[str, float] = {}
    for record in history:
        for name, seconds in record["seconds"].items():
            totals[name] = totals.get(name, 0.0) + seconds
    whole = sum(totals.values()) or 1.0
    for name, seconds in sorted(totals.items(), key=lambda item: -item[1]):
        print(f"{name:24} {seconds:9.2f} s {seconds / whole:6.1%}")

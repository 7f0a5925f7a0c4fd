"""The command on sets of dictionaries: train-set."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from sparse_sae._io.atomic import write_json
from sparse_sae.architectures import TopK
from sparse_sae.cli._parsing import AddCommand, count
from sparse_sae.cli.models import add_model, lines, open_model

_HELD_OUT = 16  # texts on which the model is measured with the set in place


def add_train_set(add: AddCommand) -> None:
    """`sparse-sae train-set`."""
    fit = add(
        "train-set", _train_set, "train transcoders (and SAEs) of many layers of a language model, as one set"
    )
    add_model(fit)
    fit.add_argument(
        "--out", type=Path, required=True, help="directory of the set; a stopped run goes on from it"
    )
    fit.add_argument(
        "--layers",
        default="all",
        metavar="LAYERS",
        help="whose MLP gets a transcoder: all, none, or numbers such as 0,3,10-14 (default: all)",
    )
    fit.add_argument(
        "--residual",
        default="none",
        metavar="LAYERS",
        help="after which layers the residual stream gets an SAE (default: none)",
    )
    fit.add_argument("--d-sae", type=count, help="latents of each (default: eight times the model's width)")
    fit.add_argument("--k", type=count, default=32, help="active latents a token (default: 32)")
    fit.add_argument("--no-skip", action="store_true", help="transcoders without a linear skip")
    fit.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="texts, one a line (default: the prose inside Python's modules)",
    )
    fit.add_argument("--capture-tokens", type=count, default=200_000, help="tokens read (default: 200000)")
    fit.add_argument(
        "--tokens", type=count, help="rows each is trained on, repeats included (default: twice those)"
    )
    fit.add_argument("--disk-gb", type=float, help="room for activations (default: half of what is free)")
    fit.add_argument(
        "--dtype", default="float16", help="how activations are stored: float32, float16, bfloat16, int8"
    )
    fit.add_argument("--context", type=count, default=256, help="longest sequence in tokens (default: 256)")
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("--threads", type=int)
    fit.add_argument(
        "--no-quality",
        action="store_true",
        help="do not measure, at the end, the model's loss with each dictionary and with all of them in place",
    )
    fit.add_argument("--json", type=Path, metavar="FILE", help="also write these losses there")


def layer_numbers(text: str, option: str) -> list[int] | None:
    """Numbers from 0,3,10-14; None for all.

    >>> layer_numbers("0,3,10-12", "--layers"), layer_numbers("all", "--layers"), layer_numbers("none", "--layers")
    ([0, 3, 10, 11, 12], None, [])
    """
    if text == "all":
        return None
    if text == "none":
        return []
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise ValueError(f"{option}: {text!r} is not 'all' or numbers such as 0,3,10-14")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return numbers


def _train_set(options: argparse.Namespace) -> int:
    layers = layer_numbers(options.layers, "--layers")
    residual = layer_numbers(options.residual, "--residual")
    model = open_model(options)
    from itertools import islice

    from sparse_sae.circuits import set_quality, train_set
    from sparse_sae.lm import english_documents
    from sparse_sae.training.progress import Bar

    def texts() -> Any:
        every = lines(options.texts) if options.texts else english_documents()
        return islice(every, _HELD_OUT, None)  # the first ones are for the measurement below

    def finished(place: Any, scores: dict[str, Any]) -> None:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in scores.items()).replace("fvu", "FVU")
        print(f"{place.writes}: held-out {numbers}", flush=True)

    with Bar("capturing", options.capture_tokens) as bar:
        made = train_set(
            model,
            texts,
            options.out,
            TopK(k=options.k),
            layers=layers,
            residual=list(range(model.n_layers)) if residual is None else residual,
            d_sae=options.d_sae,
            skip=not options.no_skip,
            capture_tokens=options.capture_tokens,
            n_tokens=options.tokens,
            seed=options.seed,
            disk_bytes=None if options.disk_gb is None else int(options.disk_gb * 1e9),
            dtype=options.dtype,
            context=options.context,
            num_threads=options.threads,
            report=finished,
            progress=lambda p: bar.update(p.tokens, f"{p.tokens:,} tokens, {p.tokens_per_second:,.0f}/s"),
        )
    print(f"{options.out}: {made}")
    if not options.no_quality:
        every = lines(options.texts) if options.texts else english_documents()
        quality = set_quality(model, made, list(islice(every, _HELD_OUT)))
        print(quality)
        if options.json:
            write_json(options.json, quality.to_dict())
    return 0

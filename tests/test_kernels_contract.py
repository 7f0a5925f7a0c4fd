"""The stub, the reference and every compiled module have the same functions, arguments and defaults; and the
choice of a level can be forced."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_sae import _kernels
from sparse_sae._kernels import _cpu, reference

STUB = ast.parse(Path(_kernels.__file__).with_name("__init__.pyi").read_text())
NOT_KERNELS = {"loadable_levels", "load", "needs"}


def stub_signatures() -> dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]]:
    """Per kernel, the (argument, default) pairs: positional, then keyword-only."""
    out = {}
    for node in STUB.body:
        if not isinstance(node, ast.FunctionDef) or node.name in NOT_KERNELS:
            continue
        a = node.args
        defaults = ["" for _ in a.args[len(a.defaults) :]] + [ast.unparse(d) for d in a.defaults]
        keyword_defaults = ["" if d is None else ast.unparse(d) for d in a.kw_defaults]
        keyword = [(k.arg, d) for k, d in zip(a.kwonlyargs, keyword_defaults, strict=True)]
        out[node.name] = ([(p.arg, d) for p, d in zip(a.args, defaults, strict=True)], keyword)
    return out


def live_signature(function: Any) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The same, read from a compiled function's docstring or a Python signature."""
    if inspect.isfunction(function):
        parameters = inspect.signature(function).parameters.values()
        pairs = [(p.kind, (p.name, "" if p.default is p.empty else repr(p.default))) for p in parameters]
        return [v for k, v in pairs if k != inspect.Parameter.KEYWORD_ONLY], [
            v for k, v in pairs if k == inspect.Parameter.KEYWORD_ONLY
        ]
    lines = function.__doc__.splitlines()
    line = next(t for t in lines if re.match(rf"(\d+\. )?{function.__name__}\(.*->", t))
    groups: list[list[tuple[str, str]]] = [[], []]
    for name, default in re.findall(r"(\*|\b\w+)(?:: [^=*]*?(?: = ([^,)]+))?)?(?=, \w+:|, \*|\) ->)", line):
        if name == "*":
            groups = [groups[0] + groups[1], []]
        else:
            groups[1].append((name, default))
    return (groups[1], []) if ", *, " not in line else (groups[0], groups[1])


@pytest.mark.parametrize("name", sorted(_kernels.FUNCTIONS))
@pytest.mark.parametrize("level", [*_kernels.loadable_levels(), "reference"])
def test_stub_equals_the_live_functions(level: str, name: str) -> None:
    assert live_signature(getattr(_kernels.load(level), name)) == stub_signatures()[name]


def test_nothing_is_missing_or_unlisted() -> None:
    assert sorted(stub_signatures()) == sorted(_kernels.FUNCTIONS)
    for level in _kernels.loadable_levels():
        module = _kernels.load(level)
        live = {n for n in dir(module) if not n.startswith("_") and callable(getattr(module, n))}
        assert live == set(_kernels.FUNCTIONS)
        assert module.level == level
    assert set(_kernels.FUNCTIONS) <= set(dir(reference))


@pytest.mark.parametrize("name", sorted(_kernels.FUNCTIONS))
def test_every_kernel_says_what_it_does(name: str) -> None:
    node = next(n for n in STUB.body if isinstance(n, ast.FunctionDef) and n.name == name)
    assert ast.get_docstring(node)


def test_a_kernel_older_than_the_sources_says_so() -> None:
    with pytest.raises(ImportError, match="encode_new: the compiled kernels are older"):
        getattr(_kernels, "_stale")("encode_new")(1, k=2)  # noqa: B009 (not in the stub)


CHOSEN = "from sparse_sae import _kernels; print(_kernels.level, _kernels.encode_topk.__module__)"


def run(level: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SPARSE_SAE_KERNELS": level}
    return subprocess.run(
        [sys.executable, "-c", CHOSEN], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("level", [*_kernels.loadable_levels(), "reference"])
def test_a_level_can_be_forced(level: str) -> None:
    chosen, module = run(level).stdout.split()
    assert chosen == level
    assert level in module.removeprefix("sparse_sae._kernels.").replace("._", ".").lstrip("_").split(".")


def test_an_unknown_level_says_what_there_is() -> None:
    got = run("x86_64_v9")
    assert got.returncode != 0
    assert "SPARSE_SAE_KERNELS='x86_64_v9'" in got.stderr
    assert "reference" in got.stderr


def test_the_best_level_is_loaded_unless_forced() -> None:
    assert run("").stdout.split()[0] == _kernels.loadable_levels()[0]


SSE4 = "sse3 ssse3 sse4.1 sse4.2 popcnt "
AVX2 = SSE4 + "avx avx2 fma bmi bmi2 "
AVX512 = AVX2 + "avx512f avx512cd avx512bw avx512dq avx512vl "
BEST = {  # what processors of these names report, and the best level each can run
    "Core 2": ("sse3 ssse3", None),
    "Nehalem": (SSE4, "x86_64_v2"),
    "Sandy Bridge": (SSE4 + "avx", "x86_64_v2"),
    "Piledriver": (SSE4 + "avx fma bmi", "x86_64_v2"),
    "Haswell": (AVX2, "x86_64_v3"),
    "Alder Lake, whose dot products are 32 bytes wide": (AVX2 + "avxvnni", "x86_64_v3_vnni"),
    "Knights Landing": (AVX2 + "avx512f avx512cd", "x86_64_v3"),
    "Skylake-X": (AVX512, "x86_64_v4"),
    "Cascade Lake": (AVX512 + "avx512vnni", "x86_64_v4_vnni"),
    "Sapphire Rapids": (AVX512 + "avx512vnni avxvnni", "x86_64_v4_vnni"),
    "Zen 4": (AVX512 + "avx512vnni avx512bf16", "x86_64_v4_vnni"),
    "Graviton 2": ("asimddp", "aarch64_dotprod"),
    "a virtual machine that hides AVX2": (AVX512.replace("avx2 ", "") + "avx512vnni", "x86_64_v2"),
}


@pytest.mark.skipif(
    "avxvnni" not in _kernels.needs("x86_64_v3_vnni"), reason="SPARSE_SAE_VNNI_AS_EVEX is set"
)
@pytest.mark.parametrize("cpu", BEST)
def test_a_processor_is_offered_the_levels_it_can_run(cpu: str) -> None:
    """All levels below the best one too, and always the one without flags, which only other processors build.

    Only a processor that reports AVX-VNNI has the level of that name: AVX-512's dot products are encoded otherwise.
    """
    features, best = BEST[cpu]
    besides = {"x86_64_v3_vnni": "avxvnni", "aarch64_dotprod": "asimddp"}
    every = [name for name, _ in _cpu.needs() if besides.get(name, "") in features]
    start = every.index(best) if best else every.index("generic")
    assert _cpu.levels(set(features.split())) == every[start:]


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="needs /proc/cpuinfo")
def test_offered_levels_are_what_the_processor_has() -> None:
    """The detector, held against what Linux says about this processor, whichever that is."""
    found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    if not found:
        pytest.skip("this processor has no x86 flags")

    flags = {flag.replace("_", "") for flag in found[1].split()}
    theirs = {"sse3": "pni", "bmi": "bmi1"}
    has = {
        feature
        for _, needs in _cpu.needs()
        for feature in needs
        if theirs.get(feature, feature.replace(".", "")) in flags
    }
    assert _cpu.features() == has
    built = {p.name.split(".")[0][1:] for p in Path(_kernels.__file__).parent.glob("_*.so")}
    assert _kernels.loadable_levels() == [name for name in _cpu.levels(has) if name in built]


def test_levels_agree_on_what_they_compute() -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((n, 100)).astype(np.float32) for n in (33, 400))
    want = reference.encode_topk(x, w, None, 9)
    for level in _kernels.loadable_levels():
        got = _kernels.load(level).encode_topk(x, w, None, 9)
        np.testing.assert_array_equal(got[1], want[1])
        np.testing.assert_allclose(got[2], want[2], rtol=1e-5)

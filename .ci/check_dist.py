"""Does a wheel (and an sdist) hold what it should and nothing else? `check_dist.py FILE.whl [FILE.tar.gz]`."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile

WANTED_IN_WHEEL = (
    r"sparse_sae/__init__\.py",
    r"sparse_sae/py\.typed",
    r"sparse_sae/_kernels/__init__\.pyi",
    r"sparse_sae/circuits/page\.html",
    r"sparse_sae/audit/sets/refusal\.json",
    r"sparse_sae/demo/tickets\.json",
    r"sparse_sae/demo/tickets_large\.json",
    r"sparse_sae/_kernels/_cpu\..*\.so",
    r"sparse_sae/_kernels/_(x86_64_v2|generic)\..*\.so",
    r"sparse_sae-[^/]*\.dist-info/licenses/LICENSE",
    r"sparse_sae-[^/]*\.dist-info/licenses/licenses/Eigen-MPL-2\.0\.txt",
    r"sparse_sae-[^/]*\.dist-info/licenses/licenses/pybind11-BSD-3-Clause\.txt",
    r"sparse_sae-[^/]*\.dist-info/entry_points\.txt",
)
ALLOWED_IN_WHEEL = (
    r"sparse_sae/([\w/]+/)?\w+\.pyi?",
    r"sparse_sae/py\.typed",
    r"sparse_sae/_kernels/_\w+\.[\w.-]+\.so",
    r"sparse_sae/(browser|circuits)/[\w/.-]+\.(html|css|js|svg)",
    r"sparse_sae/audit/sets/\w+\.json",
    r"sparse_sae/demo/tickets(_large)?\.json",
    r"sparse_sae\.libs/libgomp[\w.-]+",
    r"sparse_sae-[^/]*\.dist-info/.*",
)
WANTED_IN_SDIST = (
    r"CMakeLists\.txt",
    r"pyproject\.toml",
    r"LICENSE",
    r"README\.md",
    r"constraints\.txt",
    r"cpp/kernels/common/types\.h",
    r"python/sparse_sae/__init__\.py",
    r"tests/conftest\.py",
)
FORBIDDEN_IN_SDIST = (r".*\.(so|o|a|tmp|pyc)", r"(build|dist|\.git|\.nox|\.venv)/.*", r"(.*/)?__pycache__/.*")
LARGEST_SDIST_BYTES = 20 << 20


def main(wheel: str, sdist: str | None = None) -> int:
    """Print what is wrong; the number of findings is the exit code's truth value."""
    names = [n for n in zipfile.ZipFile(wheel).namelist() if not n.endswith("/")]
    wrong = [f"{wheel}: lacks {p}" for p in WANTED_IN_WHEEL if not any(re.fullmatch(p, n) for n in names)]
    wrong += [f"{wheel}: {n} does not belong there" for n in names if not matches(n, ALLOWED_IN_WHEEL)]
    print(f"{wheel}: {len(names)} files")
    if sdist:
        with tarfile.open(sdist) as archive:
            members = [m for m in archive.getmembers() if m.isfile()]
        names = [m.name.partition("/")[2] for m in members]
        wrong += [
            f"{sdist}: lacks {p}" for p in WANTED_IN_SDIST if not any(re.fullmatch(p, n) for n in names)
        ]
        wrong += [f"{sdist}: {n} does not belong there" for n in names if matches(n, FORBIDDEN_IN_SDIST)]
        size = sum(m.size for m in members)
        print(f"{sdist}: {len(names)} files, {size / 2**20:.1f} MiB unpacked")
        if size > LARGEST_SDIST_BYTES:
            wrong.append(f"{sdist}: {size} bytes unpacked, more than {LARGEST_SDIST_BYTES}")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return min(1, len(wrong))


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether any pattern describes the whole name."""
    return any(re.fullmatch(p, name) for p in patterns)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

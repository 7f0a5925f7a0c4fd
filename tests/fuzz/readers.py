"""A fuzz target (Atheris) of everything that reads a file: `nox -s fuzz -- --minutes 5`, or, with its environment,
`python tests/fuzz/readers.py [libFuzzer options] [files]` (files: run these inputs alone).

The first two bytes of an input choose one file of one kind (`tests/torture/files.py` lists them), the rest is its
content; the other files of its directory are as they should be. A reader may refuse it with an error that names the
file, or read it; any other error, and memory beyond four times the files, is a finding. Inputs are changed in three
ways: as bytes; by `damage` of the torture suite; and inside what holds checksums or lengths, which are then set right,
so that the change is not refused at the door.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import atheris
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "torture"))
with atheris.instrument_imports(include=["sparse_sae", "json", "zipfile", "numpy.lib"]):
    import files

CORPUS = Path(tempfile.mkdtemp(prefix="fuzz-readers-"))
SCRATCH = Path(
    tempfile.mkdtemp(prefix="fuzz-scratch-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
)
TARGETS = [
    (name, file.relative_to(source.directory))
    for name, source in sorted(files.sources().items())
    for file in files.files_of(source.directory)
    # A checkpoint that is read is trained on, which is not a matter of files: torture does it.
    if name != "checkpoint"
]


def write_corpus() -> None:
    for number, (name, file) in enumerate(TARGETS):
        content = (files.sources()[name].directory / file).read_bytes()
        (CORPUS / f"{number:03d}").write_bytes(number.to_bytes(2, "little") + content)


def test_one(data: bytes) -> None:
    number = int.from_bytes(data[:2], "little") % len(TARGETS)
    name, file = TARGETS[number]
    source = files.sources()[name]
    copy = SCRATCH / str(number)
    if not copy.exists():
        shutil.copytree(source.directory, copy)
    (copy / file).write_bytes(data[2:])
    files.attempt(f"{name}, {file}", source, copy, copy / file)


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    number = int.from_bytes(data[:2], "little") % len(TARGETS)
    way, content = rng.random(), data[2:]
    if way < 0.4:
        changed = bytes(atheris.Mutate(content, max(1, max_size - 2)))
    elif way < 0.6:
        file = SCRATCH / f"damage{TARGETS[number][1].suffix}"
        file.write_bytes(content)
        try:
            files.damage(file, rng)
            changed = file.read_bytes() if file.exists() else b""
        except (ValueError, TypeError):  # JSON that is none any more, or a mere number
            changed = content[: len(content) // 2]
    else:
        changed = inside(content, rng)
    return data[:2] + changed[: max_size - 2]


def inside(content: bytes, rng: np.random.Generator) -> bytes:
    """A change within a zip archive, a safetensors header or JSON, wrapped again as it was."""
    try:
        if content[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            name = list(members)[int(rng.integers(len(members)))]
            members[name] = bytes(atheris.Mutate(members[name], len(members[name]) + 64))
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w") as archive:
                for member, value in members.items():
                    archive.writestr(member, value)
            return out.getvalue()
        if content[:1] == b"{":
            document = json.loads(content)
            files.rewrite(document, rng)
            return json.dumps(document).encode()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        files.rewrite(header, rng)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + length :]
    except Exception:  # what was changed before can be anything
        return bytes(atheris.Mutate(content, len(content) + 64))


def main() -> None:
    warnings.simplefilter("ignore")
    files.SLACK_BYTES = 256 << 20  # instrumented code and what libFuzzer keeps grow meanwhile
    write_corpus()
    for name in {name for name, _ in TARGETS}:
        files.undamaged(name)  # what libraries load when they are first used is no matter of an input
    alone = any(not argument.startswith("-") for argument in sys.argv[1:])
    options = [
        *sys.argv,
        "-max_len=65536",
        "-rss_limit_mb=4096",
        "-timeout=600",
        *([] if alone else [str(CORPUS)]),
    ]
    atheris.Setup(options, test_one, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

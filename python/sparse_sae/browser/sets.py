"""A browser file for each dictionary of a set, side by side in one directory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sparse_sae.browser.building import Progress, build, fingerprint_of
from sparse_sae.browser.file import open_browser
from sparse_sae.circuits import set_files
from sparse_sae.data.store import ActivationStore

is_set = set_files.is_set


def build_set(
    directory: str | Path,
    stores: str | Path,
    out: str | Path,
    *,
    progress: Progress | None = None,
    done: Callable[[str, Path, bool], None] = lambda hook, path, fresh: None,
    **options: Any,
) -> dict[str, Path]:
    """Build a browser file for each dictionary of a set; one that is there and of the same contents is kept.

    Dictionaries are opened one at a time. A build that was stopped goes on where it was when it is called again.

    Args:
        directory: a set, as `DictionarySet.save` and `train_set` write it.
        stores: activations that `capture` wrote, with a folder for every hook point that a dictionary reads.
        out: the directory of the files; each is called by the hook point that its dictionary writes, with .db.
        progress: as in `build`, of the file that is being built.
        done: called for each file with its hook point, its path and whether it was built now.
        options: model or vocabulary, as in `build`.

    Returns:
        hook point -> file, in the order of the set.

    Raises:
        FileNotFoundError: no set there. ValueError: no activations of a hook point, and what `build` raises.

    >>> build_set("set", "activations", "set-browser", model=load_model())  # doctest: +SKIP
    """
    manifest = set_files.read_manifest(Path(directory))
    files: dict[str, Path] = {}
    opened = []
    for row in manifest["dictionaries"]:  # every store is found before the first hour of work
        try:
            opened.append(ActivationStore(stores, row["reads"]))
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(
                f"stores: the dictionary that writes {row['writes']!r} needs activations of {row['reads']!r} "
                f"({error}); capture them with `sparse-sae capture --hook {row['reads']}`"
            ) from None
    for row, store in zip(manifest["dictionaries"], opened, strict=True):
        hook, sae = row["writes"], set_files.read_one(Path(directory), row)
        path = Path(out) / f"{_file_name(hook)}.db"
        fresh = not _is_of(path, fingerprint_of(sae, store), options.get("model") is not None)
        if fresh:
            build(sae, store, path, progress=progress, **options)
        files[hook] = path
        done(hook, path, fresh)
    return files


def _file_name(hook: str) -> str:
    return re.sub(r"[^\w.-]", "_", hook, flags=re.ASCII)


def _is_of(path: Path, fingerprint: str, logits: bool) -> bool:
    if not path.is_file():
        return False
    with_file = open_browser(path)
    meta = with_file.meta
    with_file.close()
    return bool(meta["fingerprint"] == fingerprint and (meta["logits"] or not logits))


def files_in(directory: str | Path) -> dict[str, Path]:
    """The browser files of a directory by name, numbers in names in the order of numbers.

    Raises:
        FileNotFoundError: there is none. ValueError: two that differ only in what an address cannot hold.
    """
    found = sorted(Path(directory).glob("*.db"), key=lambda p: _natural(p.stem))
    if not found:
        raise FileNotFoundError(
            f"path: no browser file (*.db) in {directory}; build them with `sparse-sae browse build SET --store STORE`"
        )
    named: dict[str, Path] = {}
    for path in found:
        if (name := _file_name(path.stem)) in named:
            raise ValueError(
                f"path: {named[name].name} and {path.name} would both be called {name}; rename one of them"
            )
        named[name] = path
    return named


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts blocks.9 before blocks.10.

    >>> sorted(["blocks.10.x", "blocks.9.x"], key=_natural)
    ['blocks.9.x', 'blocks.10.x']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def saes_of(directory: str | Path, names: Mapping[str, Path]) -> dict[str, Any]:
    """The dictionaries of a set by the names that `files_in` gives their files; of those that have one.

    Raises:
        FileNotFoundError: no set there. ValueError: none of its dictionaries has a file among `names`.
    """
    rows = set_files.read_manifest(Path(directory))["dictionaries"]
    found = {
        _file_name(row["writes"]): set_files.read_one(Path(directory), row)
        for row in rows
        if _file_name(row["writes"]) in names
    }
    if not found:
        raise ValueError(
            f"sae: the set in {directory} writes {', '.join(row['writes'] for row in rows[:3])}, which none of the "
            f"files is of; they are {', '.join(list(names)[:3])}"
        )
    return found

"""SAEs on the Hugging Face Hub: fetched by the names they are published under, and published.

    sae = SAE.from_pretrained("jbloom/GPT2-Small-SAEs-Reformatted", "blocks.8.hook_resid_pre")
    sae = sparse_sae.load("hf://google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")

Files stay in the Hub's own cache, which other libraries share, and only the files of the one SAE are fetched. Whose
format they are is found out as for files on disk (`sparse_sae.formats`). Needs `pip install 'sparse-sae[hub]'`.
"""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_sae.formats import Format
    from sparse_sae.sae import SAE

__all__ = ["SCHEME", "download", "from_pretrained", "push"]

SCHEME = "hf://"
# What marks a place in a repository as an SAE: the file that `sparse_sae.formats` would look for in it.
_MARKS = ("cfg.json", "params.npz", "params.safetensors", "hyperparams.json", "ae.pt")
_SINGLE = (".pt", ".npz", ".safetensors")  # formats whose SAE is one file, which may itself be named


def from_pretrained(
    repo_id: str,
    path: str | None = None,
    *,
    revision: str | None = None,
    format: Format | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> SAE:
    """Open an SAE of a repository on the Hub; see `SAE.from_pretrained`, which is this.

    Args:
        repo_id: "owner/name" of a model repository.
        path: where in the repository the SAE lies: a directory or a file. None where the repository is one SAE.
        revision: branch, tag or commit; None for the main branch.
        format: as for `sparse_sae.load`.
        token: of an account, for gated and private repositories; None takes that of `hf auth login`.
        cache_dir: None for the Hub's own, which `HF_HOME` moves.
        local_files_only: ask no server; what is not in the cache is an error.

    Returns:
        The SAE. Its `metadata["source"]` names repository, commit and path.

    Raises:
        ImportError: huggingface_hub is missing. FileNotFoundError: no such repository, revision or path, or no
            connection and nothing in the cache; the message says which, and names paths that are there.
        ValueError, NotImplementedError: what was found cannot be read, as for `sparse_sae.load`.
    """
    from sparse_sae.formats import load

    place = download(
        repo_id, path, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
    sae = load(place, format)
    snapshot = place.parents[len(PurePosixPath(path or "").parts) - 1] if path else place
    sae.metadata["source"] = f"{SCHEME}{repo_id}@{snapshot.name}" + (f"/{path}" if path else "")
    return sae


def from_uri(uri: str, format: Format | None = None) -> SAE:
    """The SAE at "hf://owner/name[@revision][/path]", the way fsspec writes it."""
    parts = uri.removeprefix(SCHEME).strip("/").split("/")
    if len(parts) < 2 or not all(parts):
        raise ValueError(f"path: got {uri!r}, expected hf://owner/name[@revision][/path]")
    name, _, revision = parts[1].partition("@")
    return from_pretrained(
        f"{parts[0]}/{name}", "/".join(parts[2:]) or None, revision=revision or None, format=format
    )


def download(
    repo_id: str,
    path: str | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Fetch the files of one SAE and say where they lie; arguments and errors as of `from_pretrained`."""
    hub = _hub()
    where = f"{repo_id}" + (f" at {revision}" if revision else "")
    if path is not None and (
        path.startswith("/") or ".." in PurePosixPath(path).parts or not path.strip("/")
    ):
        raise ValueError(f"path: got {path!r}, expected a directory or file inside {repo_id}")
    path = None if path is None else path.strip("/")
    try:
        names = None if local_files_only else hub.list_repo_files(repo_id, revision=revision, token=token)
    except Exception as error:
        names = None
        if _refused(error):
            raise FileNotFoundError(_sentence(where, error)) from error
    # Without a list, the cache is asked for all that an earlier call has left in it.
    wanted = ["*"] if names is None else _wanted(names, path, where)
    try:
        root = Path(
            hub.snapshot_download(
                repo_id,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=names is None,
                allow_patterns=wanted,
            )
        )
    except Exception as error:
        raise FileNotFoundError(_sentence(where, error)) from error
    place = root / path if path else root
    if not place.exists():
        raise FileNotFoundError(
            f"{where}: {path} is not in the cache ({root}); connect once to fetch it, or check the path"
        )
    return place


def push(
    sae: SAE,
    repo_id: str,
    path: str | None = None,
    *,
    private: bool = False,
    token: str | bool | None = None,
    commit_message: str | None = None,
) -> str:
    """Publish an SAE, in the layout that SAELens and `from_pretrained` open; other files of the repository stay.

    Args:
        sae: what to publish.
        repo_id: "owner/name" of a model repository, made if it is missing.
        path: the directory in it, such as the hook point's name; None for the top.
        private: of a repository that is made by this call.
        token: None takes that of `hf auth login`.
        commit_message: None for "Add SAE" and the path.

    Returns:
        The address of the commit.
    """
    hub = _hub()
    api = hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        sae.save(Path(folder) / "sae")
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=Path(folder) / "sae",
            path_in_repo=path,
            commit_message=commit_message or f"Add SAE {path or ''}".strip(),
        )
    return str(commit.commit_url)


def _wanted(names: list[str], path: str | None, where: str) -> list[str]:
    """The files that make up the SAE, of all that the repository lists."""
    if path is not None:
        found = [name for name in names if name == path or name.startswith(f"{path}/")]
        if found:
            return found
        near = difflib.get_close_matches(path, _places(names), n=5, cutoff=0.4)
        hint = f"near it: {', '.join(near)}" if near else _some(_places(names))
        raise FileNotFoundError(f"path: {where} has no {path!r}; {hint}")
    places = _places(names)
    if "" not in places and places:
        raise FileNotFoundError(f"path: {where} holds several SAEs, say which; {_some(places)}")
    return [name for name in names if "/" not in name or name.startswith("checkpoints/")]


def _places(names: list[str]) -> list[str]:
    """Paths that look like SAEs: directories with a file that marks one, and single files."""
    folders = {str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name in _MARKS}
    single = {
        name
        for name in names
        if name.endswith(_SINGLE)
        and str(PurePosixPath(name).parent) not in folders
        and "checkpoints/" not in name
    }
    return sorted("" if place == "." else place for place in folders | single)


def _some(places: list[str]) -> str:
    shown = [place for place in places if place][:8]
    more = f" and {len(places) - 8} more" if len(places) > 8 else ""
    return f"it has: {', '.join(shown)}{more}" if shown else "it has no files of an SAE that is known here"


def _refused(error: Exception) -> bool:
    """Whether the server has answered, so that the cache is no substitute."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(
        kinds & {"RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError", "HFValidationError"}
    )


def _sentence(where: str, error: Exception) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    first = str(error).strip().split("\n")[0]
    if "GatedRepoError" in kinds:
        return (
            f"{where}: gated; accept its terms on huggingface.co and log in (`hf auth login`), or pass token="
        )
    if "RevisionNotFoundError" in kinds:
        return f"revision: {where} is not in the repository"
    if "RepositoryNotFoundError" in kinds:
        return f"repo_id: {where} is not on the Hub, or private (log in, or pass token=)"
    if "HFValidationError" in kinds:
        return f"repo_id: got {where!r}, expected owner/name ({first})"
    return f"{where}: the Hub cannot be reached and the cache holds no copy ({type(error).__name__}: {first})"


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("SAEs of the Hub need huggingface_hub: pip install 'sparse-sae[hub]'") from error
    return huggingface_hub

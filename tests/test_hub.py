"""SAEs of the Hugging Face Hub: what is fetched, what is said when it is not there; no network is used.

The Hub's cache is laid out as huggingface_hub does and read by the real library; the server is a folder.
"""

import shutil
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

import sparse_sae
from sparse_sae import SAE, TopK, hub

GOLDEN = Path(__file__).parent / "golden"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that holds two SAEs of one repository, and a Hub that cannot be reached."""
    repo = tmp_path / "hub/models--someone--saes"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text(COMMIT)
    snapshot = repo / "snapshots" / COMMIT
    shutil.copytree(GOLDEN / "saelens/topk", snapshot / "blocks.8.hook_resid_pre")
    shutil.copytree(GOLDEN / "gemma_scope", snapshot / "layer_20/width_16k")

    def unreachable(*args, **more):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", unreachable)
    return tmp_path / "hub"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A repository on a Hub that answers; the list of patterns that were asked for."""
    folder, asked = tmp_path / "server", []
    for name in ("blocks.7.hook_resid_pre", "blocks.8.hook_resid_pre"):
        shutil.copytree(GOLDEN / "saelens/topk", folder / name)
    (folder / "README.md").write_text("# SAEs")

    def listed(repo_id, **more):
        return [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]

    def fetched(repo_id, *, allow_patterns, **more):
        asked.extend(allow_patterns)
        target = tmp_path / "cache" / COMMIT
        for name in listed(repo_id):
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / name, target / name)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "list_repo_files", listed)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    return asked


@pytest.mark.parametrize(
    "path", ["blocks.8.hook_resid_pre", "layer_20/width_16k", "layer_20/width_16k/params.npz"]
)
def test_what_the_cache_holds_opens_without_a_connection(cache, path):
    sae = SAE.from_pretrained("someone/saes", path, cache_dir=cache)
    assert sae.metadata["source"] == f"hf://someone/saes@{COMMIT}/{path}"
    local = GOLDEN / ("saelens/topk" if "blocks" in path else "gemma_scope")
    np.testing.assert_array_equal(sae.W_dec, sparse_sae.load(local).W_dec)
    again = SAE.from_pretrained("someone/saes", path, cache_dir=cache, local_files_only=True)
    assert again.metadata == sae.metadata


def test_only_the_files_of_one_sae_are_fetched(server):
    sae = sparse_sae.load("hf://someone/saes@main/blocks.8.hook_resid_pre")
    assert sae.d_sae == sparse_sae.load(GOLDEN / "saelens/topk").d_sae
    assert {name.split("/")[0] for name in server} == {"blocks.8.hook_resid_pre"}


@pytest.mark.parametrize("local_files_only", [True, False])
def test_neither_connection_nor_copy_is_one_sentence(cache, local_files_only):
    with pytest.raises(FileNotFoundError, match="cannot be reached and the cache holds no copy"):
        SAE.from_pretrained("someone/else", "x", cache_dir=cache, local_files_only=local_files_only)


def test_a_wrong_path_is_answered_with_those_near_it(server):
    with pytest.raises(FileNotFoundError, match=r"no 'blocks.9.hook_resid_pre'; near it: blocks\.8"):
        SAE.from_pretrained("someone/saes", "blocks.9.hook_resid_pre")
    with pytest.raises(FileNotFoundError, match=r"several SAEs, say which; it has: blocks\.7"):
        SAE.from_pretrained("someone/saes")
    with pytest.raises(ValueError, match=r"path: got '\.\./secrets'"):
        SAE.from_pretrained("someone/saes", "../secrets")
    with pytest.raises(ValueError, match="expected hf://owner/name"):
        sparse_sae.load("hf://someone")


def test_a_path_missing_from_the_cache_says_so(cache):
    with pytest.raises(FileNotFoundError, match=r"blocks\.9 is not in the cache"):
        SAE.from_pretrained("someone/saes", "blocks.9", cache_dir=cache)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (GatedRepoError, "accept its terms"),
        (RevisionNotFoundError, "revision: someone/saes at v2"),
        (RepositoryNotFoundError, "is not on the Hub, or private"),
    ],
)
def test_what_the_hub_refuses_is_told(cache, monkeypatch, error, sentence):
    def refuse(*args, **more):
        raise error.__new__(error, "no")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", refuse)
    with pytest.raises(FileNotFoundError, match=sentence):
        SAE.from_pretrained("someone/saes", "blocks.8.hook_resid_pre", revision="v2", cache_dir=cache)


def test_what_is_published_opens_again(tmp_path, monkeypatch):
    calls = {}

    class Api:
        def __init__(self, token=None):
            calls["token"] = token

        def create_repo(self, repo_id, *, private, exist_ok):
            calls["created"] = (repo_id, private, exist_ok)

        def upload_folder(self, *, folder_path, path_in_repo, **more):
            shutil.copytree(folder_path, tmp_path / path_in_repo)
            return type("Commit", (), {"commit_url": "https://hub/commit/1"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    rng = np.random.default_rng(0)
    weights = {"W_enc": rng.standard_normal((4, 9)), "W_dec": rng.standard_normal((9, 4))}
    sae = SAE(weights | {"b_enc": np.zeros(9), "b_dec": np.zeros(4)}, TopK(k=2))
    assert sae.push_to_hub("someone/saes", "layer_3", private=True, token="t") == "https://hub/commit/1"
    assert calls == {"token": "t", "created": ("someone/saes", True, True)}
    np.testing.assert_array_equal(sparse_sae.load(tmp_path / "layer_3").W_enc, sae.W_enc)
    assert hub.SCHEME == "hf://"

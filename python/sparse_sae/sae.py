"""A sparse autoencoder (or transcoder, or crosscoder): parameters, encode, decode, save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from sparse_sae import _kernels
from sparse_sae._arguments import latent_numbers
from sparse_sae._io.arrays import Array, as_array, as_rows, to_float
from sparse_sae._threads import resolve_threads
from sparse_sae.activations import Activation
from sparse_sae.architectures import Architecture
from sparse_sae.coders import Kind, kind_of
from sparse_sae.codes import Codes
from sparse_sae.transforms import Transform
from sparse_sae.weights import NEEDED, check_weights

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from sparse_sae.formats import Written


class SAE:
    """z = activation(W_enc (x - b_dec) + b_enc),  x̂ = W_dec z + b_dec.

    b_dec is subtracted from the input only where `apply_b_dec_to_input`, which says nothing of the kind: many SAEs
    do not centre their input. A transcoder's output may also have a linear skip, + W_skip x. A crosscoder is an SAE
    whose rows are several sources side by side (`sources`).

    Args:
        params: `W_enc` (d_in, d_sae) and `W_dec` (d_sae, d_out), as the properties of these names give them; `b_enc`
            (d_sae,), `b_dec` (d_out,); optional `W_skip` (d_out, d_in); and what the activation needs
            (`threshold`, …). All float32, or all float64. `from_rows` takes both matrices a latent a row.
        activation: how pre-activations become codes: one of `sparse_sae.activations`, or an architecture, which stands
            for what it encodes with after training.
        kind: "sae", "transcoder" or "crosscoder": what is read and what is written. None for a crosscoder where there
            are `sources`, a transcoder where the widths differ, there is a skip, or metadata name a
            `hook_name_out` of its own, and else an SAE: another transcoder of equal widths must be said to be one.
        apply_b_dec_to_input: whether the encoder sees x - b_dec.
        transform: input normalisation that cannot be folded into the weights (per-token norms).
        sources: widths of the parts of a row, for a crosscoder.
        metadata: where it was trained: `model_name`, `hook_name`, …

    >>> import numpy as np, sparse_sae
    >>> eye = np.eye(4, dtype=np.float32)
    >>> zeros = np.zeros(4, np.float32)
    >>> sae = SAE({"W_enc": eye, "W_dec": eye, "b_enc": zeros, "b_dec": zeros}, sparse_sae.TopK(k=1))
    >>> sae.reconstruct(np.array([0.5, 3.0, 0.0, 1.0], np.float32))
    array([0., 3., 0., 0.], dtype=float32)
    """

    def __init__(
        self,
        params: dict[str, Array],
        activation: Activation | Architecture,
        *,
        kind: Kind | None = None,
        apply_b_dec_to_input: bool = True,
        transform: Transform | None = None,
        sources: Sequence[int] = (),
        metadata: dict[str, Any] | None = None,
    ) -> None:
        # Inside, a latent is one contiguous row of both matrices.
        stored = {name: np.transpose(value) if name == "W_enc" else value for name, value in params.items()}
        self.params = {name: np.ascontiguousarray(value) for name, value in stored.items()}
        self.activation = activation.activation if isinstance(activation, Architecture) else activation
        if not isinstance(self.activation, Activation):
            raise TypeError(f"activation: got {activation!r:.200}, expected for example TopK(k=32)")
        self.apply_b_dec_to_input = apply_b_dec_to_input
        self.transform = transform or Transform()
        self.sources = tuple(sources)
        self.metadata = dict(metadata or {})
        check_weights(self.params, (*NEEDED, *self.activation.needs), centred=apply_b_dec_to_input)
        if self.sources and sum(self.sources) != self.d_in:
            raise ValueError(
                f"sources: widths {self.sources} add up to {sum(self.sources)}, expected d_in = {self.d_in}"
            )
        self.activation.check(self.d_sae)
        self.kind: Kind = kind_of(
            kind, self.sources, (self.d_in, self.d_out), skip="W_skip" in self.params, metadata=self.metadata
        )

    @classmethod
    def from_rows(cls, params: dict[str, Array], activation: Activation | Architecture, **more: Any) -> SAE:
        """An SAE from matrices as they are stored here: W_enc (d_sae, d_in) and W_dec (d_sae, d_out), a latent a row.

        Nothing is copied where they are contiguous. Other arguments are those of `SAE`.
        """
        if "W_enc" in params:
            params = {**params, "W_enc": np.transpose(params["W_enc"])}
        return cls(params, activation, **more)

    @classmethod
    def from_pretrained(cls, repo_id: str, path: str | None = None, **options: Any) -> SAE:
        """Open a published SAE of the Hugging Face Hub, in any format of `sparse_sae.formats`.

        Args:
            repo_id, path: "owner/name", and the SAE's directory or file in it (None: the repository is one SAE).
            **options: revision, format, token, cache_dir, local_files_only; `sparse_sae.hub.from_pretrained` lists
                the errors.
        """
        from sparse_sae.hub import from_pretrained

        return from_pretrained(repo_id, path, **options)

    def push_to_hub(self, repo_id: str, path: str | None = None, **options: Any) -> str:
        """Publish this SAE for `from_pretrained` and SAELens; see `sparse_sae.hub.push`."""
        from sparse_sae.hub import push

        return push(self, repo_id, path, **options)

    def prepare(self, sample: ArrayLike | Any = None, *, num_threads: int | None = None) -> SAE:
        """Keep W_enc as int8 too, so that rows that come a few at a time encode faster, to the same bits.

        For monitors and live text: with AVX-512 VNNI, one row took a quarter of the time, eight a tenth, 64 a third
        (docs/performance.md). From 512 rows on nothing changes, nor does a watch-list (`latents`), nor any CPU without
        8-bit dot products, where nothing is kept.

        W_enc becomes read-only, which is how later calls know that the copy is still true: writing raises NumPy's
        error. To change weights, set `sae.params["W_enc"].flags.writeable = True`, and prepare again afterwards.
        b_enc and thresholds stay as they are. Do not write through views that were made before.

        Args:
            sample: (n, d_in) rows like those to come, some hundreds: with them, inputs far larger than others cost
                less. None: inputs are taken to be alike.
            num_threads: see `encode`.

        Returns:
            This SAE. The copy takes about d_sae · d_in bytes, and goes with it.

        Raises:
            TypeError: the SAE is float64.
        """
        from sparse_sae._prepared import keep

        threads, rows = resolve_threads(num_threads), None
        if sample is not None:
            rows = to_float(self._seen(sample, threads)[0], self.dtype)
            rows = rows - self.b_dec if self.apply_b_dec_to_input else rows
        self._kept = keep(self.params, rows, threads)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """All but what `prepare` keeps, which belongs to this process."""
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return int(self.params["W_enc"].shape[0])

    @property
    def d_in(self) -> int:
        """Width of an input row."""
        return int(self.params["W_enc"].shape[1])

    @property
    def d_out(self) -> int:
        """Width of an output row; d_in unless this is a transcoder."""
        return int(self.params["W_dec"].shape[1])

    @property
    def rows(self) -> dict[str, Array]:
        """The two weight matrices as stored, (d_sae, d_in) and (d_sae, d_out): a latent a row."""
        return {"W_enc": self.params["W_enc"], "W_dec": self.params["W_dec"]}

    @property
    def W_enc(self) -> Array:
        """(d_in, d_sae), a view."""
        return np.transpose(self.params["W_enc"])

    @property
    def W_dec(self) -> Array:
        """(d_sae, d_out)."""
        return self.params["W_dec"]

    @property
    def b_enc(self) -> Array:
        """(d_sae,)."""
        return self.params["b_enc"]

    @property
    def b_dec(self) -> Array:
        """(d_out,)."""
        return self.params["b_dec"]

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.params["W_enc"].dtype

    @property
    def is_transcoder(self) -> bool:
        """Whether what is read and what is written are two places."""
        return self.kind == "transcoder"

    def __repr__(self) -> str:
        kind = "SAE" if self.kind == "sae" else self.kind
        return f"<{kind} {self.activation!r} d_in={self.d_in} d_out={self.d_out} d_sae={self.d_sae}>"

    def encode(
        self,
        x: ArrayLike | Any,
        latents: Sequence[int] | Array | None = None,
        *,
        num_threads: int | None = None,
    ) -> csr_array:
        """Codes of activations.

        Args:
            x: (d_in,), (n, d_in) or (…, d_in); float16, bfloat16, float32 or float64; NumPy, torch or any
                array that offers DLPack or `__array__`. Leading axes are flattened. An SAE read from a file that
                says `reshape_activations: hook_z` also takes (…, heads, d_head).
            latents: only these latents are computed, in this order: a watch-list. For activations in which
                latents compete (TopK), the value is that of the latent on its own, ReLU(pre-activation).
            num_threads: None for `OMP_NUM_THREADS` or all cores; results do not depend on it.

        Returns:
            (n, d_sae) sparse codes, or (n, len(latents)); indices sorted in each row, no explicit zeros.

        Raises:
            TypeError: x does not hold floats. ValueError: wrong width, NaN or infinity, latents out of range.
        """
        threads = resolve_threads(num_threads)
        rows, _ = self._seen(x, threads)
        some = None if latents is None else latent_numbers(latents, self.d_sae)
        codes = self.activation.encode(self.params, rows, self._center(), latents=some, num_threads=threads)
        return codes.matrix(self.d_sae if some is None else len(some))

    def decode(self, codes: csr_array | ArrayLike, *, num_threads: int | None = None) -> Array:
        """(n, d_out) activations from (n, d_sae) codes, sparse or dense.

        A transcoder's skip needs the input and is not part of decode; `reconstruct` adds it. The same holds for
        undoing a per-token transform.
        """
        given = Codes.of(codes, self.d_sae, self.dtype)
        threads = resolve_threads(num_threads)
        out: Array = _kernels.decode(*given, self.params["W_dec"], self.params["b_dec"], num_threads=threads)
        return out

    def reconstruct(self, x: ArrayLike | Any, *, num_threads: int | None = None) -> Array:
        """decode(encode(x)) with the leading axes of x, in float32 (float64 for a float64 SAE)."""
        merged = self._merge_heads(x)
        out = self.encode_and_reconstruct(merged, num_threads=num_threads)[1]
        return out.reshape(np.shape(x) if merged is not x else (*as_array(x).shape[:-1], self.d_out))

    def encode_and_reconstruct(
        self, x: ArrayLike | Any, *, num_threads: int | None = None
    ) -> tuple[csr_array, Array]:
        """Codes (n, d_sae) and reconstruction (n, d_out) of activations that are encoded once; see `encode`."""
        threads = resolve_threads(num_threads)
        seen, undo = self._seen(x, threads)
        codes = self.activation.encode(self.params, seen, self._center(), num_threads=threads)
        out: Array = _kernels.decode(*codes, self.params["W_dec"], self.params["b_dec"], num_threads=threads)
        if "W_skip" in self.params:
            out += _kernels.matmul_nt(to_float(seen, self.dtype), self.params["W_skip"], num_threads=threads)
        if undo is not None:
            out = undo(out)
        return codes.matrix(self.d_sae), out

    def save(self, path: str | Path, format: Written = "saelens") -> None:
        """Write a directory, whole or not at all; what was there stays until the new one is complete.

        Args:
            path: the directory.
            format: "saelens" (cfg.json and sae_weights.safetensors: also this package's own, the only one that
                holds every SAE), "sparsify" or "dictionary_learning".

        Raises:
            ValueError: the format is not known or cannot hold this SAE. ImportError: it needs torch.
        """
        from sparse_sae.formats import save

        save(self, path, format)

    def _seen(self, x: Any, threads: int) -> tuple[Array, Callable[[Array], Array] | None]:
        """The rows of x as the encoder sees them, and what undoes the transform on the output, or None."""
        rows = as_rows(self._merge_heads(x), self.d_in, dtype=self.dtype, num_threads=threads)
        return (
            (rows, None) if self.transform.is_identity else self.transform.apply(to_float(rows, self.dtype))
        )

    def _merge_heads(self, x: Any) -> Any:
        """(…, d_in) of (…, heads, d_head), for an SAE of a hook point that shows heads apart."""
        shape = tuple(getattr(x, "shape", ()))
        apart = len(shape) > 1 and shape[-1] != self.d_in and shape[-2] * shape[-1] == self.d_in
        if self.metadata.get("reshape_activations") == "hook_z" and apart:
            return x.reshape(*shape[:-2], self.d_in)
        return x

    def _center(self) -> Array | None:
        return self.params["b_dec"] if self.apply_b_dec_to_input else None

"""Architectures that recipes.py compares and the library does not have: one LISTA step, and KronSAE."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array

from sparse_sae import Matryoshka, TopK, _kernels, activations
from sparse_sae.architectures.auxiliary import auxiliary
from sparse_sae.architectures.base import Batch, Gradients, reconstruction
from sparse_sae.codes import Codes, joined, stack

# ---------------------------------------------------------------- one LISTA step


def padded(codes, k):
    """Indices and values (N, k) of codes with at most k a row; -1 and 0 where there are fewer."""
    counts = np.diff(codes.indptr)
    rows, at = np.repeat(np.arange(len(counts)), counts), np.arange(len(codes.indices))
    at = at - codes.indptr[rows]
    index, value = np.full((len(counts), k), -1, np.int32), np.zeros((len(counts), k), codes.values.dtype)
    index[rows, at], value[rows, at] = codes.indices, codes.values
    return index, value


def largest(index, value, k):
    """Codes of the k largest positive values (N, n) of each row."""
    order = np.argsort(-value, axis=1, kind="stable")[:, :k]
    index, value = np.take_along_axis(index, order, 1), np.take_along_axis(value, order, 1)
    order = np.argsort(np.where(value > 0, index, np.iinfo(np.int32).max), axis=1, kind="stable")
    index, value = np.take_along_axis(index, order, 1), np.take_along_axis(value, order, 1)
    kept = value > 0
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    return Codes(indptr, index[kept], value[kept])


def two_passes(params, x, k, eta, threads):
    """z0 = TopK(W_enc x + b_enc), r = x - z0 W_dec, z1 = TopK(z0 + eta W_enc r): z0, r and z1."""
    w, v = params["W_enc"], params["W_dec"]
    z0 = activations.top(params, x, k, None, None, False, threads)[0]
    r = _kernels.decode(*z0, v, num_threads=threads)
    np.subtract(x, r, out=r)
    again = z0.values + z0.values.dtype.type(eta) * _kernels.code_grad(
        z0.indptr, z0.indices, r, w, num_threads=threads
    )
    own, value = padded(z0._replace(values=again), k)
    # Of the latents that were off, only the k that the residual moves most can be among the k largest.
    new = Codes(*_kernels.encode_topk(r, w, None, 2 * k, num_threads=threads)[:3])
    other, moved = padded(new, 2 * k)
    moved[(other[:, :, None] == own[:, None, :]).any(axis=2)] = 0
    z1 = largest(
        np.concatenate([own, other], 1), np.concatenate([value, moved * moved.dtype.type(eta)], 1), k
    )
    return z0, r, z1


def at_entries(codes, sums, n_latents):
    """The entries of a sparse matrix at the places of codes, 0 where it has none."""
    rows = np.repeat(np.arange(len(codes.indptr) - 1), np.diff(codes.indptr))
    sums = csr_array(sums).tocoo()
    keys, order = rows * n_latents + codes.indices, np.argsort(sums.row * n_latents + sums.col)
    there = (sums.row.astype(np.int64) * n_latents + sums.col)[order]
    at = np.minimum(np.searchsorted(there, keys), max(len(there) - 1, 0))
    found = np.zeros(len(keys), codes.values.dtype)
    if len(there):
        same = there[at] == keys
        found[same] = sums.data[order][at[same]]
    return found


@dataclass(frozen=True)
class OneStep(activations.TopK):
    name: ClassVar[str] = "one_step"
    eta: float = 0.5

    def _codes(self, params, x, center, latents, num_threads):
        assert latents is None
        rows = np.asarray(x, params["W_enc"].dtype) - (0 if center is None else center)
        return two_passes(params, np.ascontiguousarray(rows), self.k, self.eta, num_threads)[2]


@dataclass(frozen=True)
class Lista(Matryoshka):
    """z1 of `two_passes` in place of the encoder's codes, with the whole gradient; the choices alone are held fixed."""

    name: ClassVar[str] = "lista"
    eta: float = 0.5

    @property
    def activation(self):
        return OneStep(self.k, self.eta)

    def encode(self, params, x, center=None, *, num_threads=1):
        return self.activation.encode(params, x, center, num_threads=num_threads)

    def step(self, params, batch):
        w, v, threads, m = params["W_enc"], params["W_dec"], batch.num_threads, len(params["W_enc"])
        z0, r, z1 = two_passes(params, batch.x, self.k, self.eta, threads)
        blocks, squared, value, error, output = self.fit(params, batch, z1)
        eta, parts = r.dtype.type(self.eta), {"reconstruction": value}
        # u = z0 + eta W_enc r on the chosen latents: what reaches r, and through it z0 and W_dec.
        shape = (len(r), m)
        of_u = sum(csr_array((b.dz, b.codes.indices, b.codes.indptr), shape=shape) for b in blocks)
        dr = sum(
            _kernels.decode(b.codes.indptr, b.codes.indices, b.dz, w, num_threads=threads) for b in blocks
        )
        dr *= eta
        dz0 = at_entries(z0, of_u, m) - _kernels.code_grad(z0.indptr, z0.indices, dr, v, num_threads=threads)
        stacked = [(b.codes, eta * b.dz, b.out, r) for b in blocks]
        of_x = [(z0._replace(values=-z0.values), dz0, dr, batch.x)]
        aux = auxiliary(params, batch, error, self.aux_k, self.aux_coefficient, absolute=False)
        if aux is not None:
            of_x.append((aux[0].codes, aux[0].dz, aux[0].out, batch.x))
            parts["aux"] = aux[1]
        stacked += of_x
        codes = stack(*(s[0] for s in stacked))
        d_pre = sum(
            _kernels.latent_sums(c.indptr, c.indices, dz, m, num_threads=threads) for c, dz, *_ in of_x
        )
        return Gradients(
            loss=sum(parts.values()),
            parts=parts,
            codes=z1,
            squared=squared,
            indptr=codes.indptr,
            indices=codes.indices,
            z=codes.values,
            dz=joined([s[1] for s in stacked]),
            out=np.concatenate([s[2] for s in stacked]),
            output=output - dr,
            d_pre=d_pre,
            inputs=np.concatenate([s[3] for s in stacked]),
        )


# ---------------------------------------------------------------- KronSAE


def kron_codes(params, x, k, a, b):
    """z of head h, i, j = sqrt(p_hi q_hj) where both are positive, p = W_p x + b_p, q = W_q x + b_q: the k largest."""
    p = np.maximum(_kernels.matmul_nt(x, params["W_p"]) + params["b_p"], 0).reshape(len(x), -1, a, 1)
    q = np.maximum(_kernels.matmul_nt(x, params["W_q"]) + params["b_q"], 0).reshape(len(x), -1, 1, b)
    z = np.sqrt(p * q).reshape(len(x), -1)
    index = np.argpartition(z, z.shape[1] - k, axis=1)[:, z.shape[1] - k :].astype(np.int32)
    return largest(index, np.take_along_axis(z, index, 1), k), p, q


@dataclass(frozen=True)
class KronTopK(activations.TopK):
    name: ClassVar[str] = "kron"
    needs: ClassVar[tuple[str, ...]] = ()
    a: int = 4
    b: int = 4

    def _codes(self, params, x, center, latents, num_threads):
        assert latents is None
        rows = np.asarray(x, params["W_p"].dtype) - (0 if center is None else center)
        parts = [
            kron_codes(params, np.ascontiguousarray(rows[i : i + 512]), self.k, self.a, self.b)[0]
            for i in range(0, len(rows), 512)
        ]
        return stack(*parts)


@dataclass(frozen=True)
class Kron(TopK):
    """KronSAE (Kurochkin et al. 2025, arXiv 2505.22255): an encoder of (a + b) / (a b) of the rows, not W_enc."""

    name: ClassVar[str] = "kron"
    a: int = 4
    b: int = 4

    @property
    def activation(self):
        return KronTopK(self.k, self.a, self.b)

    def init(self, params, x):
        heads, rng = len(params["W_enc"]) // (self.a * self.b), np.random.default_rng(0)
        for name, rows in (("p", heads * self.a), ("q", heads * self.b)):
            w = rng.standard_normal((rows, x.shape[1])).astype(x.dtype)
            params[f"W_{name}"] = w / np.linalg.norm(w, axis=1, keepdims=True)
            params[f"b_{name}"] = np.zeros(rows, x.dtype)

    def encode(self, params, x, center=None, *, num_threads=1):
        return self.activation.encode(params, x, center, num_threads=num_threads)

    def step(self, params, batch):
        codes, p, q = kron_codes(params, batch.x, self.k, self.a, self.b)
        out, dz, squared, loss = reconstruction(codes, params, batch.y, batch.variance, batch.num_threads)
        rows = np.repeat(np.arange(len(batch.x)), np.diff(codes.indptr))
        head, i, j = np.unravel_index(codes.indices, (p.shape[1], self.a, self.b))
        vectors, half = {}, dz / (2 * codes.values)
        d_x = np.zeros_like(batch.x)
        for name, own, at, factor in (("p", p, i, q[rows, head, 0, j]), ("q", q, j, p[rows, head, i, 0])):
            size = own.shape[1] * own.shape[2] * own.shape[3]
            grad = np.zeros((len(batch.x), size), batch.x.dtype)
            np.add.at(grad, (rows, head * (size // own.shape[1]) + at), half * factor)
            vectors[f"b_{name}"] = grad.sum(axis=0)
            vectors[f"W_{name}"] = grad.T @ batch.x
            d_x += grad @ params[f"W_{name}"]
        return Gradients(
            loss=loss,
            parts={"reconstruction": loss},
            codes=codes,
            squared=squared,
            indptr=codes.indptr,
            indices=codes.indices,
            z=codes.values,
            dz=np.zeros_like(dz),
            out=out,
            output=out - d_x,  # b_dec reaches the encoder through the centring of x
            d_pre=np.zeros_like(params["b_enc"]),
            vectors=vectors,
        )


def check_gradients():
    """Both, held against differences of their own loss in float64, in all parameters at once."""
    rng = np.random.default_rng(0)
    n, d, m = 40, 9, 32
    raw, b_dec = rng.standard_normal((n, d)), 0.1 * rng.standard_normal(d)
    for architecture in (
        Lista(k=4, batch=False, widths=(m,), aux_k=0),
        Lista(k=4, batch=False, widths=(8, m), aux_k=0),
        Kron(k=4, aux_k=0),
    ):
        unit = rng.standard_normal((m, d)) / 3
        params = {
            "W_enc": unit.copy(),
            "W_dec": unit.copy(),
            "b_enc": 0.1 * rng.standard_normal(m),
            "b_dec": b_dec,
        }
        architecture.init(params, raw)

        def loss(at, architecture=architecture):
            x = raw - at["b_dec"]
            return architecture.step(at, Batch(x, x, 1.0, np.zeros(m, bool)))

        g = loss(params)
        x = raw - b_dec
        inputs = np.tile(x, (len(g.indptr) // n, 1)) if g.inputs is None else g.inputs
        grads = {
            "W_enc": _kernels.weight_grad(g.indptr, g.indices, g.dz, np.ascontiguousarray(inputs), m),
            "W_dec": _kernels.weight_grad(g.indptr, g.indices, g.z, g.out, m),
            "b_enc": g.d_pre,
            "b_dec": g.output.sum(axis=0) - g.d_pre @ params["W_enc"],
            **g.vectors,
        }
        for name, grad in grads.items():
            way = rng.standard_normal(grad.shape)
            step = 1e-7
            ends = [loss({**params, name: params[name] + s * step * way}).loss for s in (1, -1)]
            numeric, exact = (ends[0] - ends[1]) / (2 * step), float((grad * way).sum())
            assert abs(numeric - exact) < 1e-4 * (abs(exact) + 1e-3), (
                architecture.name,
                name,
                numeric,
                exact,
            )

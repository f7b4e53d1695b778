r"""Leading directions of ``C = sum_l Delta W_l Delta W_l^T`` from thin factors, ``F_l F_l^T = Delta W_l Delta W_l^T``.

With ``A^T = Q R`` the factor of a writer is ``F = s B R^T`` (d, r), and none of the matrices ``Delta W`` is formed. All
work is on ``F^T``, whose rows lie in memory one after the other for every product that occurs. What is reported is in
singular values of ``[Delta W_1 | ... | Delta W_L]``, the square roots of the eigenvalues.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxspec.linalg import decompositions, ordered, spectral_norm
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import power_of_two_scale
from jaxspec.linalg.spectral_map import gram_factor
from jaxspec.linalg.top_eigh import top_eigh
from jaxspec.lora.nulls import alignment_null, alignment_p_value, is_drawn
from jaxspec.lora.selection import Stack

# A direction is known above this share of the first, times sqrt(eps): squares are accurate to a few eps of the largest.
_KNOWN = 4
# After so many sweeps what has not settled lies in a bulk of nearly equal strengths.
_SWEEPS = 24
# Columns up to which the subspace iteration runs on their Gram matrix.
_LARGEST_SQUARE = 2048
_BLOCK = 512


class Leading(NamedTuple):
    """Leading directions of a list of factors.

    Attributes:
        directions: orthonormal columns, (d, k); zero beyond the rank.
        strengths: singular values, (k,).
        spectrum: singular values as far as they were computed, descending, (m,).
        total: Frobenius norm of all factors, ().
        residual: of `top_eigh`; 0 for the Gram matrix.
    """

    directions: Float[Array, "d k"]
    strengths: Float[Array, " k"]
    spectrum: Float[Array, " m"]
    total: Float[Array, ""]
    residual: Float[Array, ""]


class Alignment(NamedTuple):
    """How aligned the leading directions of the matrices are, one factor after the other removed.

    Attributes:
        alignment: ``A_j``, largest eigenvalue of the mean of ``u_l u_l^T`` after removing j directions, (k,).
        p_value: among independent isotropic directions, (k,).
    """

    alignment: Float[Array, " k"]
    p_value: Float[Array, " k"]


def thin_factor(stack: Stack, after: Sequence[Array] | None = None) -> Float[Array, "L r d"]:
    """``F_l^T`` with ``F_l F_l^T = Delta W_l Delta W_l^T`` (``Delta W_l^T Delta W_l`` where the stack reads).

    Args:
        stack: factors of equal shape.
        after: arrays that must be computed before (see `jaxspec.linalg.ordered`).

    Returns:
        The thin factors, transposed.
    """
    rows, other = (stack.b.mT, stack.a.mT) if stack.side == "writes" else (stack.a, stack.b)
    # A triangle with the Gram matrix of the other factor; one that is not tall serves as it is.
    inner = decompositions.short_triangle(ordered(other, after)) if other.shape[-2] > other.shape[-1] else other
    return matmul(stack.scale[:, None, None] * inner, rows)


def weighted(
    factors: Sequence[Float[Array, "_ _ d"]], weights: Sequence[Float[Array, " _"]] | None, unit: bool
) -> list[Float[Array, "_ _ d"]]:
    """Factors with the weights of their matrices, or each with Frobenius norm 1; zero ones stay zero.

    Args:
        factors: stacks of thin factors.
        weights: for every stack, (L,); or None.
        unit: whether each becomes of norm 1.

    Returns:
        The weighted factors.
    """
    if unit:
        sizes = [power_of_two_scale(f, keepdims=True) for f in factors]
        scaled = [f / size for f, size in zip(factors, sizes, strict=True)]
        norms = [jnp.sqrt(jnp.sum(f * f, axis=(1, 2), keepdims=True)) for f in scaled]
        return [f / jnp.where(norm == 0, 1, norm) for f, norm in zip(scaled, norms, strict=True)]
    if weights is None:
        return list(factors)
    return [f * w[:, None, None] for f, w in zip(factors, weights, strict=True)]


def one_below_the_other(factors: Sequence[Float[Array, "_ _ d"]]) -> Float[Array, "R d"]:
    """Rows of all factors, ``[F_1 | F_2 | ...]^T``."""
    return jnp.concatenate([f.reshape(-1, f.shape[2]) for f in factors])


def leading(rows: Float[Array, "R d"], k: int, *, engine: str, key: Key[Array, ""]) -> Leading:
    """Leading ``k`` right singular vectors of the rows.

    Args:
        rows: of all factors.
        k: number of directions, below d.
        engine: ``"gram"``: eigenvectors of the smaller of ``F^T F`` and ``F F^T``, all of the spectrum; directions
            below about ``sqrt(eps)`` of the first are lost. ``"subspace"``: block iteration, k + 8 values.
        key: randomness of the start of the iteration.

    Returns:
        `Leading`.
    """
    scale = power_of_two_scale(rows)
    rows = rows / scale
    rank = min(k, *rows.shape)
    residual = jnp.zeros((), rows.dtype)
    wide = rows.shape[0] <= rows.shape[1]
    if engine == "gram":
        squares, vectors = decompositions.eigh(_lower_gram(rows if wide else rows.T), symmetrize=False)
        values, vectors = jnp.sqrt(jnp.maximum(squares[::-1], 0)), vectors[:, ::-1][:, :rank]
    else:
        # A sweep over the rows reads them twice: from a few sweeps on their Gram matrix is cheaper, if it is small.
        wide = wide and rows.shape[0] <= _LARGEST_SQUARE
        product = _gram_product(rows) if wide else lambda x: matmul(matmul(x, rows.T), rows)
        size = rows.shape[0 if wide else 1]
        found = top_eigh(product, size, rank, max_sweeps=_SWEEPS, key=key, dtype=rows.dtype)
        values, vectors, residual = jnp.sqrt(found.values), found.vectors, found.residual
    images = matmul(vectors.T, rows) if wide else vectors.T
    vectors, strengths = _orthonormal_in_order(images, values[:rank])
    pad = k - rank
    return Leading(
        jnp.pad(vectors, ((0, 0), (0, pad))),
        jnp.pad(strengths, (0, pad)) * scale,
        values * scale,
        jnp.sqrt(jnp.sum(rows * rows)) * scale,
        residual,
    )


def alignments(
    factors: Sequence[Float[Array, "_ _ d"]],
    directions: Float[Array, "d k"],
    key: Key[Array, ""],
    num_samples: int,
    removed: Float[Array, "d m"] | None = None,
) -> Alignment:
    """Alignment of the leading directions of the matrices after removing the first 0, ..., k - 1 of ``directions``.

    Args:
        factors: thin factors, transposed.
        directions: orthonormal columns, or zero.
        key: random key of the null.
        num_samples: number of draws of the null.
        removed: what is removed besides, orthonormal with ``directions``, or zero.

    Returns:
        `Alignment`. Matrices that are zero, or of which nothing is left, do not count. Where nothing is drawn, which is
        for more than 128 matrices, the null of matrices of rank one does not know that directions were removed.
    """
    first = 0 if removed is None else removed.shape[1]
    if removed is not None:
        directions = orthonormal_or_zero(jnp.concatenate([removed, directions], axis=1))
    d, k = directions.shape
    layers = sum(f.shape[0] for f in factors)
    drawn = is_drawn(layers, d)
    # What is left lies in d - k + 1 dimensions at least: this makes the null of all factors a little too wide.
    space = max(d - k + 1, 2)
    # A matrix of rank one is its direction: removing one fitted to all of them leaves a linear relation among the rest.
    related = k if all(f.shape[1] == 1 for f in factors) else 0
    scaled = [f / power_of_two_scale(f, keepdims=True) for f in factors]
    parts = [(f, matmul(f, f.mT), matmul(f, directions)) for f in scaled]

    def level(carry, j):
        previous, null = carry
        removed = jnp.where(jnp.arange(k) < j, directions, 0)
        vectors, count = _matrix_directions(parts, removed, previous.astype(directions.dtype))
        aligned = jnp.square(spectral_norm(vectors)) / jnp.maximum(count, 1)

        def draw():
            present = ordered(count.astype(aligned.dtype), aligned).astype(int)
            gone = jnp.sum(jnp.any(removed != 0, axis=0)) if related else 0
            return alignment_null(
                key, layers, space, num_samples=num_samples, count=present, relations=gone, most_relations=related
            )

        if drawn:
            null = draw() if related else jax.lax.cond(count == previous, lambda: null, draw)
        return (count, null), (aligned, alignment_p_value(aligned, count, null, space))

    start = jnp.array(-1), jnp.zeros(num_samples if drawn else 0, jnp.float32)
    _, (aligned, p) = jax.lax.scan(level, start, jnp.arange(first, k))
    return Alignment(aligned, p)


def orthonormal_or_zero(columns: Float[Array, "d k"]) -> Float[Array, "d k"]:
    """Orthonormal columns that span, one after the other, what the given ones do; zero columns stay zero.

    Args:
        columns: independent, or zero.

    Returns:
        The columns.
    """
    present = jnp.any(columns != 0, axis=0)
    # QR makes something of a zero column, to which all later ones would be orthogonal: such columns go last.
    order = jnp.argsort(~present)
    q, _ = decompositions.qr(columns[:, order])
    return jnp.zeros_like(columns).at[:, order].set(q) * present


def shares(factors: Sequence[Float[Array, "_ _ d"]], directions: Float[Array, "d k"]) -> list[Float[Array, "_ k"]]:
    """``||u_j^T F_l|| / ||F_l||_F``: how much of every matrix lies along a direction, in [0, 1]; 0 for a zero one.

    Args:
        factors: thin factors, transposed.
        directions: unit columns.

    Returns:
        For every stack, (L, k).
    """
    found = []
    for f in factors:
        f = f / power_of_two_scale(f, keepdims=True)
        along = jnp.sqrt(jnp.sum(jnp.square(matmul(f, directions)), axis=1))
        whole = jnp.sqrt(jnp.sum(f * f, axis=(1, 2)))[:, None]
        found.append(along / jnp.where(whole == 0, 1, whole))
    return found


def own_directions(
    factors: Sequence[Float[Array, "_ _ d"]], k: int
) -> list[tuple[Float[Array, "_ d k"], Float[Array, "_ k"]]]:
    """Leading ``k`` directions of every matrix by itself, and its singular values; zero beyond the rank.

    Args:
        factors: thin factors, transposed.
        k: number of directions.

    Returns:
        For every stack, directions (L, d, k) and singular values (L, k).
    """
    found, after = [], None
    for f in factors:
        values, vectors, scale = gram_factor(ordered(f, after))
        rank = min(k, values.shape[-1])
        images = vectors[..., :rank].mT
        if f.shape[1] <= f.shape[2]:
            images = matmul(images, f)
        vectors, strengths = jax.vmap(_orthonormal_in_order)(images, values[..., :rank] * scale[..., None])
        after, pad = vectors, [(0, 0), (0, k - rank)]
        found.append((jnp.pad(vectors, [(0, 0), *pad]), jnp.pad(strengths, pad)))
    return found


def _matrix_directions(parts, removed, after):
    """Leading direction of every matrix without the removed ones, (L, d), and how many matrices have one."""
    found, present = [], []
    for f, gram, along in parts:
        size = jnp.trace(gram, axis1=1, axis2=2)
        along = jnp.where(jnp.any(removed != 0, axis=0), along, 0)
        left = gram - matmul(along, along.mT)
        values, z = decompositions.eigh(left, after=after)
        top = z[..., -1]
        u = jnp.einsum("lr,lrd->ld", top, f, precision="highest")
        u = u - matmul(jnp.einsum("lr,lrk->lk", top, along, precision="highest"), removed.T)
        # Below this what is left is rounding of what was removed.
        exists = values[:, -1] > _KNOWN**2 * jnp.finfo(f.dtype).eps * size
        norm = jnp.sqrt(jnp.sum(u * u, axis=1))
        exists &= norm > 0
        after = jnp.where(exists[:, None], u / jnp.where(exists, norm, 1)[:, None], 0)
        found.append(after)
        present.append(jnp.sum(exists))
    return jnp.concatenate(found), sum(present)


def _lower_gram(x):
    """Lower triangle of ``x x^T`` in blocks of rows, at little more than half the cost; above it, zeros."""
    n = x.shape[0]
    edges = [*range(0, n, _BLOCK), n]
    strips = [matmul(x[start:stop], x[:stop].T) for start, stop in itertools.pairwise(edges)]
    return jnp.concatenate([jnp.pad(strip, ((0, 0), (0, n - strip.shape[1]))) for strip in strips])


def _gram_product(rows):
    lower = jnp.tril(_lower_gram(rows))
    gram = lower + jnp.tril(lower, -1).T
    return lambda x: matmul(x, gram)


def _orthonormal_in_order(images, strengths):
    """Orthonormal columns that span, one after the other, what the rows of ``images`` do; largest entries positive.

    Rows whose strength is lost to rounding become zero columns, and so do their strengths.
    """
    known = strengths > _KNOWN * jnp.sqrt(jnp.finfo(strengths.dtype).eps) * jnp.max(strengths, initial=0)
    lengths = jnp.sqrt(jnp.sum(images * images, axis=1))
    known &= lengths > 0
    # Lost rows come last and QR goes in order, so they do not turn the others.
    q, _ = decompositions.qr(jnp.where(known, (images / jnp.where(known, lengths, 1)[:, None]).T, 0))
    largest = jnp.take_along_axis(q, jnp.argmax(jnp.abs(q), axis=0)[None], axis=0)
    return q * jnp.sign(largest) * known, jnp.where(known, strengths, 0)

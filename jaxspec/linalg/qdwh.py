r"""Polar factor by the dynamically weighted Halley iteration, unrolled from a bound on the smallest singular value.

    X <- (b/c) X + (a - b/c) (I + c X X^H)^(-1) X ,

by a QR factorisation while ``c > 100`` and by a Cholesky factorisation afterwards: both backward stable where they are
used. Reference: Nakatsukasa, Bai & Gygi, SIAM J. Matrix Anal. Appl. 31 (2010); Nakatsukasa & Higham (2013).
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact

from jaxspec.linalg import decompositions
from jaxspec.linalg.coefficients.roots import QDWHStep
from jaxspec.linalg.normalisation import hermitian_product, matmul
from jaxspec.linalg.scaling import conjugate_transpose

_QR_ABOVE = 100.0
_SPLIT = 128  # smallest triangle whose halves are worth a product of their own


def halley(
    y: Inexact[Array, "*batch m n"], steps: Sequence[QDWHStep], precision: lax.Precision
) -> Inexact[Array, "*batch m n"]:
    """Polar factor of wide matrices with singular values in ``[l, 1]``.

    Args:
        y: wide matrices.
        steps: from `qdwh_schedule(l, tol)`.
        precision: of the matrix products.

    Returns:
        Matrices with singular values within ``tol`` of 1 (of ``s / l`` at most for singular values below ``l``).
    """
    for a, b, c, _ in steps:
        y = (_qr_step if c > _QR_ABOVE else _cholesky_step)(y, a, b, c, precision)
    return y


def _qr_step(y, a, b, c, precision):
    rows = y.shape[-2]
    eye = jnp.broadcast_to(jnp.eye(rows, dtype=y.dtype), (*y.shape[:-2], rows, rows))
    q, _ = decompositions.qr(jnp.concatenate([conjugate_transpose(y) * c**0.5, eye], axis=-2))
    top, bottom = q[..., :-rows, :], q[..., -rows:, :]
    update = matmul(bottom, conjugate_transpose(top), precision)
    return (b / c) * y + ((a - b / c) / c**0.5) * update


def _cholesky_step(y, a, b, c, precision):
    z = c * hermitian_product(y, conjugate_transpose(y), precision) + jnp.eye(y.shape[-2], dtype=y.dtype)
    return (b / c) * y + (a - b / c) * solve_positive(z, y, precision)


def solve_positive(
    z: Inexact[Array, "*batch m m"], y: Inexact[Array, "*batch m n"], precision: lax.Precision
) -> Inexact[Array, "*batch m n"]:
    """``z^(-1) y`` for Hermitian positive definite ``z``.

    With a long right-hand side the m x m inverse is formed: one triangular inverse and products, which run at the speed
    of products, instead of two triangular solves with n columns.

    Args:
        z: matrices to solve with.
        y: right-hand sides.
        precision: of the products.

    Returns:
        The solutions; NaN where ``z`` is not positive definite.
    """
    factor = lax.linalg.cholesky(z, symmetrize_input=False)
    if 2 * y.shape[-1] >= 3 * z.shape[-1]:
        return matmul(lower_gram(inverse_factor(factor, precision), precision), y, precision)
    half = lax.linalg.triangular_solve(factor, y, left_side=True, lower=True)
    return lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True, conjugate_a=True)


def inverse_factor(factor: Inexact[Array, "*batch m m"], precision: lax.Precision) -> Inexact[Array, "*batch m m"]:
    """Inverse of lower triangular matrices, by halves: a triangular solve with the identity ignores its zeros.

    Args:
        factor: lower triangular matrices, zeros above the diagonal.
        precision: of the products.

    Returns:
        The inverses, lower triangular.
    """
    size = factor.shape[-1]
    if size < _SPLIT:
        eye = jnp.broadcast_to(jnp.eye(size, dtype=factor.dtype), factor.shape)
        return lax.linalg.triangular_solve(factor, eye, left_side=True, lower=True)
    half = size // 2
    head = inverse_factor(factor[..., :half, :half], precision)
    tail = inverse_factor(factor[..., half:, half:], precision)
    corner = -matmul(matmul(tail, factor[..., half:, :half], precision), head, precision)
    empty = jnp.zeros_like(conjugate_transpose(corner))
    return join(head, empty, corner, tail)


def lower_gram(
    lower: Inexact[Array, "*batch k m"], precision: lax.Precision, stacked: int = 1
) -> Inexact[Array, "*batch m m"]:
    """``sum_j L_j^H L_j`` of lower triangular matrices on top of each other, half the work of a product.

    Args:
        lower: the matrices, k = stacked m rows.
        precision: of the products.
        stacked: their number.

    Returns:
        The sum.
    """
    size = lower.shape[-1]
    if size < _SPLIT:
        return matmul(conjugate_transpose(lower), lower, precision)
    half = size // 2
    pieces = lower.reshape(*lower.shape[:-2], stacked, size, size)
    flat = (*lower.shape[:-2], -1, size - half)
    bottom = pieces[..., half:, :half].reshape(*lower.shape[:-2], -1, half)
    tail = pieces[..., half:, half:].reshape(flat)
    left = lower[..., :half]
    corner = matmul(conjugate_transpose(tail), bottom, precision)
    return join(
        matmul(conjugate_transpose(left), left, precision),
        conjugate_transpose(corner),
        corner,
        matmul(conjugate_transpose(tail), tail, precision),
    )


def join(
    a: Inexact[Array, "*batch p p"],
    b: Inexact[Array, "*batch p q"],
    c: Inexact[Array, "*batch q p"],
    d: Inexact[Array, "*batch q q"],
) -> Inexact[Array, "*batch m m"]:
    """``[[a, b], [c, d]]``.

    Args:
        a: upper left block.
        b: upper right block.
        c: lower left block.
        d: lower right block.

    Returns:
        The matrices, m = p + q.
    """
    return jnp.concatenate([jnp.concatenate([a, b], axis=-1), jnp.concatenate([c, d], axis=-1)], axis=-2)

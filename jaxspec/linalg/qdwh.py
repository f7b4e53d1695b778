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
    """
    factor = lax.linalg.cholesky(z, symmetrize_input=False)
    if 2 * y.shape[-1] >= 3 * z.shape[-1]:
        inverse = inverse_factor(factor)
        return matmul(hermitian_product(conjugate_transpose(inverse), inverse, precision), y, precision)
    half = lax.linalg.triangular_solve(factor, y, left_side=True, lower=True)
    return lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True, conjugate_a=True)


def inverse_factor(factor: Inexact[Array, "*batch m m"]) -> Inexact[Array, "*batch m m"]:
    """Inverse of lower triangular matrices."""
    eye = jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)
    return lax.linalg.triangular_solve(factor, eye, left_side=True, lower=True)

r"""Derivative of ``X = U diag(s) V^T -> U diag(f(s)) V^T``, finite at repeated and zero singular values.

For a direction ``dX`` with ``P = U^H dX V``, ``H`` and ``K`` its Hermitian and skew parts and ``J`` the Jacobian of
``f``,

    dY = U [ offdiag(H o D) + diag(J ds) + K o E ] V^H + (rectangular part) ,   ds = Re diag P ,
    D_ij = (f_i - f_j)/(s_i - s_j)  (J_ii - J_ij as s_i -> s_j),   E_ij = (f_i + f_j)/(s_i + s_j)  (J_ii at 0),

and ``f_i/s_i`` (``J_ii`` at 0) times the part of ``dX`` outside the short-side space. Reference: Lewis & Sendov, "Twice
differentiable spectral functions", SIAM J. Matrix Anal. Appl. 23 (2001); Noferini, SIAM J. Matrix Anal. Appl. 38
(2017).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Inexact

from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import conjugate_transpose


def spectral_tangent(
    f: Callable,
    factors: tuple[Inexact[Array, "*batch m r"], Float[Array, "*batch r"], Inexact[Array, "*batch r n"]],
    values: Float[Array, "*batch r"],
    dx: Inexact[Array, "*batch m n"],
    constants: tuple[Sequence[ArrayLike], Sequence[ArrayLike]],
    dead: Bool[Array, "*batch r"],
) -> tuple[Float[Array, "*batch r"], Inexact[Array, "*batch m n"]]:
    """Tangents of ``f(s)`` and of ``U f(s) V^H``; linear in ``dx`` and in the constants' tangents, hence transposable.

    Args:
        f: ``(s, *constants) -> values``.
        factors: thin SVD ``(u, s, vt)``.
        values: ``f(s)``, with 0 at the dead places.
        dx: tangent of the matrices.
        constants: values and tangents of ``f``'s constants.
        dead: singular values that count as 0.

    Returns:
        ``(dvalues, dy)``.
    """
    u, s, vt = factors
    constants, dconstants = constants
    s = jnp.where(dead, 0, s)
    uh_dx = matmul(conjugate_transpose(u), dx)
    p = matmul(uh_dx, conjugate_transpose(vt))
    hermitian, skew = (p + conjugate_transpose(p)) / 2, (p - conjugate_transpose(p)) / 2
    ds = jnp.diagonal(p, axis1=-2, axis2=-1).real
    jacobian = _jacobian(lambda t: f(t, *constants), s)
    slope = jnp.diagonal(jacobian, axis1=-2, axis2=-1)
    dvalues = jnp.einsum("...ij,...j->...i", jacobian, ds, precision=lax.Precision.HIGHEST)
    if constants:
        zero = jnp.zeros_like(s)
        _, from_constants = jax.jvp(f, (s, *constants), (zero, *dconstants))
        dvalues = dvalues + jnp.where(dead, 0, from_constants)
    core = hermitian * _differences(s, values, jacobian, slope) + skew * _sums(s, values, slope)
    core = core + _diagonal(dvalues)
    weights = _ratio(values, s, slope)
    if dx.shape[-2] > dx.shape[-1]:
        outside = matmul(dx, conjugate_transpose(vt)) - matmul(u, p)
        return dvalues, matmul(matmul(u, core) + outside * weights[..., None, :], vt)
    outside = uh_dx - matmul(p, vt)
    return dvalues, matmul(u, matmul(core, vt) + weights[..., None] * outside)


def _jacobian(f, s):
    rank = s.shape[-1]
    basis = jnp.broadcast_to(jnp.eye(rank, dtype=s.dtype).reshape(rank, *(1,) * (s.ndim - 1), rank), (rank, *s.shape))
    columns = jax.vmap(lambda tangent: jax.jvp(f, (s,), (tangent,))[1])(basis)
    columns = jnp.moveaxis(columns, 0, -1)
    return jnp.where(jnp.isfinite(columns), columns, 0)


def _differences(s, values, jacobian, slope):
    """Divided differences off the diagonal; below a relative gap of sqrt(eps) their symmetrised limit."""
    gap = s[..., :, None] - s[..., None, :]
    close = jnp.abs(gap) <= jnp.sqrt(jnp.finfo(s.dtype).eps) * (s[..., :, None] + s[..., None, :])
    limit = (slope[..., :, None] + slope[..., None, :] - jacobian - jacobian.mT) / 2
    quotient = (values[..., :, None] - values[..., None, :]) / jnp.where(close, 1, gap)
    return jnp.where(close, limit, quotient) * (1 - jnp.eye(s.shape[-1], dtype=s.dtype))


def _sums(s, values, slope):
    mean_slope = (slope[..., :, None] + slope[..., None, :]) / 2
    return _ratio(values[..., :, None] + values[..., None, :], s[..., :, None] + s[..., None, :], mean_slope)


def _ratio(numerator, denominator, limit):
    zero = denominator == 0
    return jnp.where(zero, limit, numerator / jnp.where(zero, 1, denominator))


def _diagonal(entries):
    return entries[..., :, None] * jnp.eye(entries.shape[-1], dtype=entries.dtype)

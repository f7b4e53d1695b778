"""Variances of functionals of both arms, for errors independent over time or correlated within a unit.

A functional that moves by ``sum_ij Psi_ij E_ij`` over the observed cells of both arms has variance
``sum_i sum_jk Psi_ij s_ij Psi_ik s_ik R_jk`` with ``s_ij`` the error size of row i in the arm of the cell. Independent
errors have R = I. ``cov="block"`` estimates a common correlation at each lag from the residuals of all units and weighs
it by the share of pairs that fall into a common block, ``1 - lag / block`` (the mean over all placements of blocks).
The two arms of one unit are then correlated, too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxspec.completion.panel.arms import matmul
from jaxspec.completion.panel.design import Design
from jaxspec.completion.panel.row_errors import column_noise

SIGN = (-1.0, 1.0)


def error_sizes(W: Bool[Array, "2 n m"], designs: Design) -> Float[Array, "n m"]:
    """Standard deviation of the error of each observed cell, 0 elsewhere.

    Args:
        W: cells of both arms.
        designs: linear model of each.

    Returns:
        The sizes.
    """
    sizes = jnp.sqrt(designs.variance)[..., None]
    return jnp.where(W[0], sizes[0], jnp.where(W[1], sizes[1], 0))


def serial_correlation(W: Bool[Array, "2 n m"], designs: Design, block: int) -> Float[Array, "m m"]:
    """Weighted correlation matrix R of a unit's errors over time.

    Lag l has ``(sum e_j e_{j+l} + b_l) / count_l`` over ``sum e_j^2 / count_0`` with e the standardised residuals and
    ``b_l = sum rows_j^T G_i^{-1} rows_{j+l}``, what fitting a row takes from its products when errors are independent.

    Args:
        W: cells of both arms.
        designs: linear model of each.
        block: periods of a block; lags from there on count as 0 (static).

    Returns:
        The matrix.
    """
    sizes = error_sizes(W, designs)
    m = sizes.shape[1]
    residual = jnp.sum(designs.residual, axis=0)
    e = jnp.where(sizes > 0, residual / jnp.where(sizes > 0, sizes, 1), 0)
    seen = (sizes > 0).astype(e.dtype)
    fitted = jnp.einsum("anpq,amq->anmp", designs.row_inverse, designs.rows)

    def products(lag: Array) -> tuple[Array, Array]:
        later = jnp.arange(m) + lag < m
        shifted = lambda x: jnp.where(later, jnp.roll(x, -lag, axis=-1), 0)  # noqa: E731
        rows = jnp.where(later[:, None], jnp.roll(designs.rows, -lag, axis=-2), 0)
        lever = jnp.einsum("anmp,amp->anm", fitted, rows)
        taken = jnp.sum(jnp.where(W & shifted(W.astype(e.dtype)).astype(bool), lever, 0))
        return jnp.sum(e * shifted(e)) + taken, jnp.sum(seen * shifted(seen))

    sums, counts = jax.lax.map(products, jnp.arange(min(block, m)))
    means = sums / jnp.maximum(counts, 1)
    correlation = jnp.where(means[0] > 0, means / jnp.where(means[0] > 0, means[0], 1), 0).at[0].set(1)
    weights = jnp.clip(correlation, -1, 1) * (1 - jnp.arange(means.size) / block)
    lags = jnp.abs(jnp.arange(m)[:, None] - jnp.arange(m))
    return jnp.where(lags < means.size, weights[jnp.minimum(lags, means.size - 1)], 0)


def variance(scaled: Float[Array, "n m"], correlation: Float[Array, "m m"] | None) -> Float[Array, " n"]:
    """Contribution of each row to the variance of a functional.

    Args:
        scaled: weights of the cells times the error sizes.
        correlation: R; None: independent errors.

    Returns:
        The contributions.
    """
    if correlation is None:
        return jnp.sum(scaled**2, axis=1)
    # An estimated R may have small negative eigenvalues.
    return jnp.maximum(jnp.sum(matmul(scaled, correlation) * scaled, axis=1), 0)


def unit_variances(
    W: Bool[Array, "2 n m"], designs: Design, correlation: Float[Array, "m m"] | None
) -> Float[Array, " n"]:
    """Variance of the mean over periods of each row of ``A(1) - A(0)``, given the factors to first order.

    ``s2_i g^T G_i^{-1} g + U_i^T C U_i`` summed over the arms, ``g`` the mean of rows_j and
    ``C = sum_j H_j^{-1} S_j H_j^{-1} / m^2``.

    Args:
        W: cells of both arms.
        designs: linear model of each.
        correlation: R; None: independent errors.

    Returns:
        The variances.
    """
    w = W.astype(designs.rows.dtype)
    m = w.shape[-1]
    g = jnp.mean(designs.rows, axis=1)
    coefficients = jnp.einsum("anpq,aq->anp", designs.row_inverse, g)
    sign = jnp.array(SIGN, w.dtype)[:, None, None]
    own = jnp.sum(sign * w * matmul(coefficients, designs.rows.mT), axis=0) * error_sizes(W, designs)
    if correlation is None:
        C = jnp.sum(jax.vmap(column_noise)(w, designs), axis=1) / m**2
        shared = jnp.sum(jnp.sum(matmul(designs.columns, C) * designs.columns, axis=-1), axis=0)
    else:
        scores = jnp.einsum("anm,ampq,anq->nmap", sign * w, designs.column_inverse, designs.columns) / m
        scores = (scores * error_sizes(W, designs)[..., None, None]).reshape(*w.shape[1:], -1)
        C = jnp.einsum("kjp,jl,klq->pq", scores, correlation, scores, optimize="optimal")
        both = jnp.concatenate([designs.columns[0], designs.columns[1]], axis=1)
        shared = jnp.maximum(jnp.sum(matmul(both, C) * both, axis=1), 0)
    return variance(own, correlation) + shared

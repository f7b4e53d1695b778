"""Variances of functionals of both arms, for errors independent over time or correlated within a unit.

A functional that moves by ``sum_ij Psi_ij E_ij`` over the observed cells of both arms has variance
``sum_i sum_jk Psi_ij s_ij Psi_ik s_ik R_jk`` with ``s_ij`` the error size of row i in the arm of the cell. Independent
errors have R = I. ``cov="block"`` estimates a correlation for each lag below ``block`` from the residuals of all units,
keeps those up to half a block and lets the others fall off linearly. The arms of one unit are then correlated, too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxspec.completion.panel.design import Design
from jaxspec.completion.panel.row_errors import column_noise
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import safe_divide

SIGN = (-1.0, 1.0)
SAMPLED_ROWS = 64
RIDGE = 1e-3
LEAST_SHARE = 0.1
_HIGHEST = jax.lax.Precision.HIGHEST


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
    """Weighted correlation matrix R of a unit's errors over time, relative to the variances of `error_sizes`.

    Fitting a row turns its errors e into ``M_i e`` with ``M_i = I - rows_j^T G_i^{-1} rows_k`` on the cells of an arm,
    which takes correlation away. The correlations at lags l solve ``sum_l' <T_l, M_i T_l' M_i> rho_l' = <T_l, e_i
    e_i^T>``, both sides averaged over rows, T_l the matrix of ones at distance l. The left-hand side is averaged over
    at most 64 rows, evenly spaced.

    Args:
        W: cells of both arms.
        designs: linear model of each.
        block: lags from there on count as 0 (static).

    Returns:
        The matrix.
    """
    _, n, m = W.shape
    sizes = error_sizes(W, designs)
    dtype = sizes.dtype
    residual = jnp.sum(designs.residual, axis=0)
    e = safe_divide(residual, sizes)
    cells = jnp.sum(W, axis=(0, 2))
    own = jnp.maximum(cells - designs.rows.shape[-1] * 2, 0)
    # Columns were fitted, too: the errors shrank below those of the rows' own fits by a common factor.
    e = e * jnp.sqrt(jnp.sum(own) / jnp.maximum(jnp.sum(jnp.where(own > 0, jnp.sum(e**2, axis=1), 0)), 1))
    seen = (sizes > 0).astype(dtype)
    distance = jnp.abs(jnp.arange(m)[:, None] - jnp.arange(m))
    by_lag = lambda x: jnp.zeros(m, dtype).at[distance].add(x)[:block]  # noqa: E731
    some = jnp.arange(min(n, SAMPLED_ROWS)) * n // min(n, SAMPLED_ROWS)
    left = _annihilators(W[:, some].astype(dtype), designs.rows, designs.row_inverse[:, some])
    pairs = jnp.maximum(by_lag(matmul(seen[some].T, seen[some])), 1)

    def column(lag: Array) -> Array:
        shift = (distance == lag).astype(dtype)
        return by_lag(jnp.sum(matmul(left, matmul(shift, left)), axis=0)) / pairs

    system = jax.lax.map(column, jnp.arange(block)).T
    target = by_lag(matmul(e.T, e)) / jnp.maximum(by_lag(matmul(seen.T, seen)), 1)
    system = system + jnp.diag(RIDGE * jnp.diag(system) + jnp.finfo(dtype).tiny)
    correlation = jnp.linalg.solve(system, target)
    correlation = jnp.where(jnp.isfinite(correlation), correlation, 0).at[0].max(1.0)
    taper = jnp.clip(2 - 2 * jnp.arange(block) / block, 0, 1)
    return jnp.where(distance < block, (correlation * taper)[jnp.minimum(distance, block - 1)], 0)


def _annihilators(w: Float[Array, "2 k m"], rows: Float[Array, "2 m p"], inverse: Array) -> Float[Array, "k m m"]:
    """``M_i``, over both arms."""
    weighted = w[..., None] * rows[:, None]
    fitted = jnp.sum(matmul(matmul(weighted, inverse), weighted.mT), axis=0)
    return jax.vmap(jnp.diag)(jnp.sum(w, axis=0)) - fitted


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
    least = LEAST_SHARE * jnp.sum(scaled**2, axis=1)
    return jnp.maximum(jnp.sum(matmul(scaled, correlation) * scaled, axis=1), least)


def unit_variances(
    W: Bool[Array, "2 n m"], designs: Design, periods: Float[Array, " m"], correlation: Float[Array, "m m"] | None
) -> Float[Array, " n"]:
    """Variance of the mean over periods of each row of ``A(1) - A(0)``, given the factors to first order.

    ``s2_i g^T G_i^{-1} g + U_i^T C U_i`` summed over the arms, with ``g = sum_j t_j rows_j`` and
    ``C = sum_j t_j^2 H_j^{-1} S_j H_j^{-1}``.

    Args:
        W: cells of both arms.
        designs: linear model of each.
        periods: weights t of the periods, with sum 1.
        correlation: R; None: independent errors.

    Returns:
        The variances.
    """
    w = W.astype(designs.rows.dtype)
    g = jnp.einsum("m,amp->ap", periods, designs.rows, precision=_HIGHEST)
    coefficients = jnp.einsum("anpq,aq->anp", designs.row_inverse, g, precision=_HIGHEST)
    sign = jnp.array(SIGN, w.dtype)[:, None, None]
    own = jnp.sum(sign * w * matmul(coefficients, designs.rows.mT), axis=0) * error_sizes(W, designs)
    if correlation is None:
        C = jnp.einsum("m,ampq->apq", periods**2, jax.vmap(column_noise)(w, designs), precision=_HIGHEST)
        shared = jnp.sum(jnp.sum(matmul(designs.columns, C) * designs.columns, axis=-1), axis=0)
    else:
        scores = jnp.einsum(
            "anm,ampq,anq->nmap", sign * w * periods, designs.column_inverse, designs.columns, precision=_HIGHEST
        )
        scores = (scores * error_sizes(W, designs)[..., None, None]).reshape(*w.shape[1:], -1)
        C = jnp.einsum("kjp,jl,klq->pq", scores, correlation, scores, optimize="optimal", precision=_HIGHEST)
        both = jnp.concatenate([designs.columns[0], designs.columns[1]], axis=1)
        shared = jnp.maximum(jnp.sum(matmul(both, C) * both, axis=1), 0)
    return variance(own, correlation) + shared

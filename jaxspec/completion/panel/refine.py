"""Refinement of a low-rank fit by alternating ridge least squares on the cells of one arm.

With ``A = U V^T``, ``V^T V = m I`` and sig2 the residual variance, a sweep solves for every row

    U_i = (sum_j W_ij V_j V_j^T + diag(lam))^{-1} sum_j W_ij Z_ij V_j,    lam_k = sig2 / mean_i U_ik^2,

then likewise for every column. The ridge is the empirical-Bayes one: it vanishes with the noise, so that data without
noise are recovered exactly, and protects rows with few cells. This refinement is ours, not the paper's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxspec.completion.panel.arms import Arm, Factors
from jaxspec.linalg import decompositions
from jaxspec.linalg.normalisation import matmul
from jaxspec.solvers.loop import CONVERGED, RUNNING, iterate
from jaxspec.solvers.stopping import safe_ratio


class Refined(NamedTuple):
    """Refined factors of both arms.

    Attributes:
        factors: of each arm.
        iterations: sweeps done.
        change: relative change of each arm in the last sweep; NaN without one.
        converged: whether all changes are below the tolerance; True without a tolerance.
    """

    factors: Factors
    iterations: Int[Array, ""]
    change: Float[Array, " a"]
    converged: Bool[Array, ""]


def degrees_of_freedom(arm: Arm, rank: Int[Array, ""]) -> Float[Array, ""]:
    """``r (n + m - r)``, plus the parameters of the centring.

    Args:
        arm: one arm.
        rank: its rank.

    Returns:
        The number of parameters.
    """
    n, m = arm.Z.shape
    rank = rank.astype(arm.Z.dtype)
    return rank * (n + m - rank) + arm.centring


def residual_variance(arm: Arm, factors: Factors, rank: Int[Array, ""]) -> Float[Array, ""]:
    """``||W (Z - U V^T)||^2 / max(|W| - degrees of freedom, 1)``.

    Args:
        arm: one arm.
        factors: its fit.
        rank: its rank.

    Returns:
        The variance.
    """
    residual = jnp.where(arm.W, arm.Z - factors.product(), 0)
    free = jnp.sum(arm.W).astype(arm.Z.dtype) - degrees_of_freedom(arm, rank)
    return jnp.sum(residual**2) / jnp.maximum(free, 1)


def normal_matrices(W: Bool[Array, "n m"], basis: Float[Array, "m k"]) -> Float[Array, "n k k"]:
    """``G_i = sum_j W_ij v_j v_j^T``, as one product.

    Args:
        W: cells.
        basis: rows v_j.

    Returns:
        One matrix per row of W.
    """
    m, k = basis.shape
    squares = (basis[:, :, None] * basis[:, None, :]).reshape(m, k * k)
    return matmul(W.astype(basis.dtype), squares).reshape(len(W), k, k)


def refine(
    arms: Arm,
    factors: Factors,
    rank: Int[Array, " a"],
    *,
    sweeps: int | None,
    tol: Array | None = None,
    max_sweeps: int = 200,
) -> Refined:
    """Sweeps over both arms at once and a last row solve; see the module's text.

    Args:
        arms: with a leading axis.
        factors: where to start, with the same axis.
        rank: of each arm.
        sweeps: their number (static); None: until the relative change of every arm is below ``tol``.
        tol: see sweeps.
        max_sweeps: at most so many with a tolerance (static).

    Returns:
        The refined factors.
    """
    if factors.left.shape[-1] == 0:
        nothing = jnp.zeros(rank.shape, factors.left.dtype)
        return Refined(factors, jnp.asarray(sweeps or 0, jnp.int32), nothing, jnp.array(True))
    start = _State(
        factors,
        jnp.full(rank.shape, jnp.nan, factors.left.dtype),
        jnp.zeros((), jnp.int32),
        jnp.asarray(RUNNING, jnp.int32),
    )

    def step(state: _State) -> _State:
        new = jax.vmap(_sweep)(arms, state.factors, rank)
        return state._replace(factors=new, iter=state.iter + 1, change=jax.vmap(_relative_change)(new, state.factors))

    if sweeps is not None:
        end = jax.lax.fori_loop(0, sweeps, lambda _, state: step(state), start) if sweeps else start
        converged = jnp.array(True)
    else:

        def test(state: _State) -> _State:
            return state._replace(status=jnp.where(jnp.all(state.change < tol), CONVERGED, RUNNING).astype(jnp.int32))

        end = iterate(step, test, start, max_iter=max_sweeps)
        converged = end.status == CONVERGED
    last = jax.vmap(_rows)(arms, end.factors, rank)
    return Refined(last, end.iter, end.change, converged)


class _State(NamedTuple):
    factors: Factors
    change: Array
    iter: Int[Array, ""]
    status: Int[Array, ""]


def _relative_change(new: Factors, old: Factors) -> Float[Array, ""]:
    now = new.product()
    return safe_ratio(jnp.linalg.norm(now - old.product()), jnp.linalg.norm(now))


def _sweep(arm: Arm, factors: Factors, rank: Int[Array, ""]) -> Factors:
    (n, m), dtype = arm.Z.shape, arm.Z.dtype
    noise = residual_variance(arm, factors, rank)
    q, t, _ = _thin_svd(_rows(arm, factors, rank, noise).left)
    basis = jnp.sqrt(jnp.asarray(n, dtype)) * q
    alive = (jnp.arange(t.size) < rank) & (t > jnp.finfo(dtype).eps * t[0])
    right = _solve(arm.Z.T, arm.W.T, basis, noise * n / jnp.where(alive, t, 1) ** 2, alive)
    p, s, z = _thin_svd(right)
    root = jnp.sqrt(jnp.asarray(m, dtype))
    kept = (jnp.arange(t.size) < rank).astype(dtype)
    return Factors(matmul(basis, z) * (s * kept / root), p * (root * kept))


def _rows(arm: Arm, factors: Factors, rank: Int[Array, ""], noise: Array | None = None) -> Factors:
    """The row solve; with the ridge of these factors."""
    noise = residual_variance(arm, factors, rank) if noise is None else noise
    power = jnp.mean(factors.left**2, axis=0)
    eps = jnp.finfo(arm.Z.dtype).eps
    alive = (jnp.arange(power.size) < rank) & (power > eps**2 * jnp.max(power, initial=0))
    left = _solve(arm.Z, arm.W, factors.right, noise / jnp.where(alive, power, 1), alive)
    return Factors(left, factors.right * alive)


def _solve(Z: Array, W: Array, basis: Array, ridge: Array, alive: Array) -> Float[Array, "n k"]:
    """Ridge regressions of all rows of Z on a basis; 0 along the directions that are not alive."""
    basis = jnp.where(alive, basis, 0)
    # Without the floor a row with fewer than k cells has a singular matrix once the noise is gone.
    floor = 4 * jnp.finfo(Z.dtype).eps * Z.shape[1]
    G = normal_matrices(W, basis) + jnp.diag(jnp.where(alive, ridge + floor, 1))
    return cholesky_solve(G, matmul(Z, basis))


def cholesky_solve(G: Float[Array, "n k k"], b: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """``G_i^{-1} b_i`` for positive definite matrices.

    Args:
        G: matrices.
        b: right-hand sides.

    Returns:
        The solutions.
    """
    factor = jax.lax.linalg.cholesky(G)
    return jax.scipy.linalg.cho_solve((factor, True), b[..., None])[..., 0]


def _thin_svd(x: Float[Array, "n k"]) -> tuple[Array, Array, Array]:
    """``x = u diag(s) v^T`` of a tall matrix, through its triangle."""
    q, r = decompositions.qr(x)
    u, s, vt = decompositions.svd(r)
    return matmul(q, u), s, vt.mT

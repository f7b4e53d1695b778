"""Refinement of a low-rank fit by alternating ridge least squares on the cells of one arm.

With ``A = U V^T``, ``V^T V = m I`` and sig2 the residual variance, a sweep solves for every row

    U_i = (sum_j W_ij V_j V_j^T + diag(lam))^{-1} sum_j W_ij Z_ij V_j,    lam_k = sig2 / mean_i U_ik^2,

then likewise for every column. The ridge is the empirical-Bayes one: it vanishes with the noise, so that data without
noise are recovered exactly, and protects rows with few cells. This refinement is ours, not the paper's.

How many sweeps are enough depends on which cells are seen: where they are scattered a handful, under staggered adoption
tens, as whole blocks are extrapolated. What matters is not how far a sweep moves the matrix against its size, which a
high level of the outcomes inflates, but against the error that the noise leaves in it: ``motion``.
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

SETTLED = 0.01


class Refined(NamedTuple):
    """Refined factors of both arms.

    Attributes:
        factors: of each arm.
        iterations: sweeps done.
        change: relative change of each arm in the last sweep; NaN without one.
        converged: whether the last sweep met the tolerance, or without one left both arms settled; True without a
            sweep.
        motion: of each arm in the last sweep, in units of its sampling error, see `sampling_error`; NaN without one.
    """

    factors: Factors
    iterations: Int[Array, ""]
    change: Float[Array, " a"]
    converged: Bool[Array, ""]
    motion: Float[Array, " a"]


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


def sampling_error(arm: Arm, factors: Factors, rank: Int[Array, ""]) -> Float[Array, ""]:
    """``sig (d n m / |W|)^(1/2)``: the norm of the error that noise leaves in the whole matrix, were cells scattered.

    Args:
        arm: one arm.
        factors: its fit.
        rank: its rank, d its degrees of freedom.

    Returns:
        The error, in the Frobenius norm.
    """
    share = jnp.maximum(jnp.sum(arm.W), 1) / arm.W.size
    return jnp.sqrt(residual_variance(arm, factors, rank) * degrees_of_freedom(arm, rank) / share)


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
        sweeps: their number (static); None: until every arm has settled.
        tol: an arm has settled once its relative change is below this; None: once its ``motion`` is below .01, or its
            relative change below 100 eps, where there is no noise to measure by.
        max_sweeps: at most so many with ``sweeps=None`` (static).

    Returns:
        The refined factors.
    """
    if factors.left.shape[-1] == 0:
        nothing = jnp.zeros(rank.shape, factors.left.dtype)
        return Refined(factors, jnp.asarray(sweeps or 0, jnp.int32), nothing, jnp.array(True), nothing)
    unknown = jnp.full(rank.shape, jnp.nan, factors.left.dtype)
    start = _State(
        factors,
        unknown,
        unknown,
        jnp.zeros((), jnp.int32),
        jnp.asarray(RUNNING, jnp.int32),
    )

    def step(state: _State) -> _State:
        new = jax.vmap(_sweep)(arms, state.factors, rank)
        change, motion = jax.vmap(_moves)(arms, new, state.factors, rank)
        return state._replace(factors=new, iter=state.iter + 1, change=change, motion=motion)

    def settled(state: _State) -> Bool[Array, ""]:
        if tol is not None:
            return jnp.all(state.change < tol)
        floor = 100 * jnp.finfo(state.change.dtype).eps
        return jnp.all((state.motion < SETTLED) | (state.change < floor))

    def test(state: _State) -> _State:
        return state._replace(status=jnp.where(settled(state), CONVERGED, RUNNING).astype(jnp.int32))

    if sweeps is None:
        end = iterate(step, test, start, max_iter=max_sweeps)
    else:
        end = jax.lax.fori_loop(0, sweeps, lambda _, state: step(state), start) if sweeps else start
    converged = settled(end) if sweeps != 0 else jnp.array(True)
    last = jax.vmap(_rows)(arms, end.factors, rank)
    return Refined(last, end.iter, end.change, converged, end.motion)


class _State(NamedTuple):
    factors: Factors
    change: Array
    motion: Array
    iter: Int[Array, ""]
    status: Int[Array, ""]


def _moves(arm: Arm, new: Factors, old: Factors, rank: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Norm of a sweep's step over that of the matrix, and over the sampling error."""
    now = new.product()
    step = jnp.linalg.norm(now - old.product())
    return safe_ratio(step, jnp.linalg.norm(now)), safe_ratio(step, sampling_error(arm, new, rank))


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

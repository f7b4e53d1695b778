"""The linear model around a fit: what a row can change, what a column can change, and how noisy each row is.

Near ``A = U V^T`` (offsets included) the fit of an arm moves in the tangents ``z_i . rows_j + columns_i . y_j``, with
``rows = [V, 1]`` and ``columns = [U, 1]``, the ones only where centring fitted effects of units or of periods. Normal
matrices ``G_i = sum_j W_ij rows_j rows_j^T`` and ``H_j = sum_i W_ij columns_i columns_i^T``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxspec.completion.panel.arms import Arm, Factors
from jaxspec.completion.panel.refine import degrees_of_freedom, normal_matrices
from jaxspec.linalg import eigh, ordered
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import safe_divide
from jaxspec.solvers.loop import CONVERGED, RUNNING, iterate
from jaxspec.solvers.stopping import safe_ratio


class Design(NamedTuple):
    """Tangent space of one arm's fit and the noise in its cells.

    Attributes:
        rows: (m, p).
        columns: (n, q), scaled to a mean square of 1.
        row_inverse: of G_i plus the floor of the fit, (n, p, p).
        column_inverse: pseudo-inverse of H_j, (m, q, q): a column with fewer cells than rank is silent along what it
            cannot know, as in the ridge fit.
        variance: of the errors in each row, (n,).
        pooled: variance over all rows.
        residual: on the cells, 0 elsewhere, (n, m).
    """

    rows: Float[Array, "*a m p"]
    columns: Float[Array, "*a n q"]
    row_inverse: Float[Array, "*a n p p"]
    column_inverse: Float[Array, "*a m q q"]
    variance: Float[Array, "*a n"]
    pooled: Float[Array, "*a"]
    residual: Float[Array, "*a n m"]


def make_design(
    arm: Arm, factors: Factors, rank: Int[Array, ""], *, center: str | None, homoskedastic: bool = False
) -> Design:
    """The linear model around one arm's fit.

    Args:
        arm: cells.
        factors: fit.
        rank: of the fit.
        center: what centring fitted (static).
        homoskedastic: whether all rows share the pooled variance (static).

    Returns:
        The model.
    """
    (n, m), dtype = arm.Z.shape, arm.Z.dtype
    eps = jnp.finfo(dtype).eps
    power = jnp.sqrt(jnp.mean(factors.left**2, axis=0))
    alive = (jnp.arange(power.size) < rank) & (power > eps * jnp.max(power, initial=0))
    rows = jnp.where(alive, factors.right, 0)
    columns = jnp.where(alive, factors.left / jnp.where(alive, power, 1), 0)
    row_alive = column_alive = alive
    if center is not None:
        rows = jnp.concatenate([rows, jnp.ones((m, 1), dtype)], axis=1)
        row_alive = jnp.append(alive, True)
    if center == "two_way":
        columns = jnp.concatenate([columns, jnp.ones((n, 1), dtype)], axis=1)
        column_alive = jnp.append(alive, True)
    G = normal_matrices(arm.W, rows) + jnp.diag(jnp.where(row_alive, 4 * eps * m, 1))
    H = normal_matrices(arm.W.T, columns)
    variance, pooled, residual = _variances(arm, factors, rank, center)
    row_inverse = _inverse(G)
    return Design(
        rows,
        columns,
        row_inverse,
        _pseudo_inverse(ordered(H, row_inverse), jnp.sum(column_alive)),
        jnp.full_like(variance, pooled) if homoskedastic else variance,
        pooled,
        residual,
    )


def _variances(arm: Arm, factors: Factors, rank: Int[Array, ""], center: str | None) -> tuple[Array, Array, Array]:
    """``s2_i = c RSS_i / (|W_i| - r)`` with c such that their weighted mean is the pooled variance."""
    residual = jnp.where(arm.W, arm.Z - factors.product(), 0)
    squares = jnp.sum(residual**2, axis=1)
    cells = jnp.sum(arm.W, axis=1).astype(squares.dtype)
    free = jnp.sum(cells) - degrees_of_freedom(arm, rank)
    pooled = jnp.sum(squares) / jnp.maximum(free, 1)
    own = cells - rank - (center is not None)
    enough = own > 0
    raw = jnp.where(enough, squares / jnp.where(enough, own, 1), 0)
    mean = jnp.sum(jnp.where(enough, squares, 0)) / jnp.maximum(jnp.sum(jnp.where(enough, own, 0)), 1)
    corrected = raw * safe_divide(pooled, mean, 1)
    return jnp.where(enough, corrected, pooled), pooled, residual


def _inverse(G: Float[Array, "n p p"]) -> Float[Array, "n p p"]:
    p = G.shape[-1]
    if p == 0:
        return G
    identity = jnp.broadcast_to(jnp.eye(p, dtype=G.dtype), G.shape)
    factor = jax.lax.linalg.cholesky(G)
    return jax.scipy.linalg.cho_solve((factor, True), identity)


def _pseudo_inverse(H: Float[Array, "m q q"], most: Int[Array, ""]) -> Float[Array, "m q q"]:
    """Pseudo-inverses; what is below rounding of the largest eigenvalue is 0."""
    if H.shape[-1] == 0:
        return H
    values, vectors = eigh(H)
    floor = 100 * jnp.finfo(H.dtype).eps * values[..., -1:]
    kept = (values > floor) & (jnp.arange(H.shape[-1]) >= H.shape[-1] - most)
    return matmul(vectors * jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)[..., None, :], vectors.mT)


def influence(
    W: Float[Array, "n m"], design: Design, L: Float[Array, "n m"], *, max_iter: int = 1000
) -> Float[Array, "n m"]:
    """Weights ``Psi`` of the cells in ``<L, A>``: the fitted functional moves by ``sum_ij Psi_ij E_ij``.

    Minimises ``1/2 ||W T||^2 - <L, T>`` over the tangents T; ``Psi = W T``. The rows are eliminated by their normal
    matrices, the columns found by conjugate gradients with theirs as preconditioner: alternating block solves are the
    same without the conjugation and need twice the steps. Rows with fewer cells than directions are silent, as in the
    ridge fit, which leaves them near 0 along what they cannot know.

    Args:
        W: cells, as numbers.
        design: the linear model.
        L: the functional.
        max_iter: steps at most (static).

    Returns:
        The weights, 0 off the cells; NaN where so many steps were too few.
    """
    dtype = L.dtype
    tol = 1e-6 if jnp.finfo(dtype).bits == 64 else 1e-4

    directions = jnp.sum(jnp.any(design.rows != 0, axis=0))
    known = jnp.sum(W, axis=1) >= directions
    row_inverse = jnp.where(known[:, None, None], design.row_inverse, 0)

    def tangent(right: Array, y: Array) -> Array:
        """With the rows that minimise at these columns; linear in the pair."""
        columns = matmul(design.columns, y.T)
        z = _apply(row_inverse, matmul(right - W * columns, design.rows))
        return W * (matmul(z, design.rows.T) + columns)

    def step(state: _Gradients) -> _Gradients:
        along = tangent(jnp.zeros_like(L), state.direction)
        image = matmul(along.T, design.columns)
        length = safe_ratio(state.power, jnp.maximum(jnp.sum(state.direction * image), 0))
        residual = state.residual - length * image
        scaled = _apply(design.column_inverse, residual)
        power = jnp.sum(residual * scaled)
        direction = scaled + safe_ratio(power, state.power) * state.direction
        return _Gradients(state.psi + length * along, residual, direction, power, state.iter + 1, state.status)

    def test(state: _Gradients) -> _Gradients:
        runs = state.power > (tol * jnp.linalg.norm(state.psi)) ** 2
        return state._replace(status=jnp.where(runs, RUNNING, CONVERGED).astype(jnp.int32))

    psi = tangent(L, jnp.zeros((W.shape[1], design.columns.shape[1]), dtype))
    residual = matmul((L - psi).T, design.columns)
    direction = _apply(design.column_inverse, residual)
    power = jnp.sum(residual * direction)
    running = jnp.asarray(RUNNING, jnp.int32)
    start = test(_Gradients(psi, residual, direction, power, jnp.zeros((), jnp.int32), running))
    end = iterate(step, test, start, max_iter=max_iter)
    return jnp.where(end.status == CONVERGED, end.psi, jnp.nan)


class _Gradients(NamedTuple):
    psi: Array
    residual: Array
    direction: Array
    power: Array
    iter: Array
    status: Array


def _apply(inverse: Float[Array, "n p p"], vectors: Float[Array, "n p"]) -> Float[Array, "n p"]:
    return jnp.einsum("npq,nq->np", inverse, vectors, precision=jax.lax.Precision.HIGHEST)

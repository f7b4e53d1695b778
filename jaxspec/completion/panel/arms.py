"""One arm of a panel: its cells, what centring takes from it, its propensities and its row-scaled matrix.

``W(a) = O 1{D = a}``, ``phat_i(a) = sum_j W(a)_ij / m`` and ``X(a)_ij = W(a)_ij (Y_ij - offset_ij) / phat_i(a)``. The
functions here see one arm; callers map them over both.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxspec.linalg import top_svd
from jaxspec.linalg.normalisation import matmul

CELLS_OF_A_DENSE_SVD = 2**20


class Arm(NamedTuple):
    """Cells of one arm.

    Attributes:
        Z: outcomes net of centring, 0 where the arm has no cell, (n, m).
        W: where it has one, (n, m).
        unit_offset: what centring took from each unit, (n,).
        time_offset: what it took from each period, (m,).
        centring: parameters of the centring.
    """

    Z: Float[Array, "*a n m"]
    W: Bool[Array, "*a n m"]
    unit_offset: Float[Array, "*a n"]
    time_offset: Float[Array, "*a m"]
    centring: Float[Array, "*a"]


class Factors(NamedTuple):
    """``A - offsets = left @ right^T`` with ``right^T right = m I`` on the first ``rank`` columns, 0 beyond.

    Attributes:
        left: (n, k).
        right: (m, k).
    """

    left: Float[Array, "*a n k"]
    right: Float[Array, "*a m k"]

    def product(self) -> Float[Array, "*a n m"]:
        """The matrix."""
        return matmul(self.left, self.right.mT)


def make_arm(Y: Float[Array, "n m"], W: Bool[Array, "n m"], center: str | None) -> Arm:
    """Cells of one arm with its fixed effects removed, which are fitted on these cells by least squares.

    Args:
        Y: outcomes; anything where W is False.
        W: cells of the arm.
        center: None, ``"row"`` or ``"two_way"`` (static).

    Returns:
        The arm.
    """
    n, m = Y.shape
    Z = jnp.where(W, Y, 0)
    unit, time = jnp.zeros(n, Y.dtype), jnp.zeros(m, Y.dtype)
    rows = jnp.sum(W, axis=1)
    parameters = jnp.zeros((), Y.dtype)
    if center is None:
        return Arm(Z, W, unit, time, parameters)
    parameters = jnp.sum(rows > 0).astype(Y.dtype)
    if center == "two_way":
        time = _time_effects(Z, W)
        parameters += jnp.maximum(jnp.sum(jnp.any(W, axis=0)) - 1, 0)
    unit = jnp.sum(jnp.where(W, Z - time, 0), axis=1) / jnp.maximum(rows, 1)
    return Arm(jnp.where(W, Z - unit[:, None] - time, 0), W, unit, time, parameters)


def _time_effects(Z: Float[Array, "n m"], W: Bool[Array, "n m"]) -> Float[Array, " m"]:
    """Period effects of the two-way fit: normal equations net of the units, by preconditioned conjugate gradients."""
    w = W.astype(Z.dtype)
    rows, columns = jnp.maximum(jnp.sum(w, axis=1), 1), jnp.maximum(jnp.sum(w, axis=0), 1)

    def net(matrix: Array) -> Array:
        return jnp.where(W, matrix - (jnp.sum(jnp.where(W, matrix, 0), axis=1) / rows)[:, None], 0)

    def normal(effects: Array) -> Array:
        return jnp.sum(net(jnp.broadcast_to(effects, Z.shape)), axis=0)

    tol = 10 * jnp.finfo(Z.dtype).eps
    target = jnp.sum(net(Z), axis=0)
    effects, _ = jax.scipy.sparse.linalg.cg(normal, target, tol=tol, maxiter=10 * Z.shape[1], M=lambda v: v / columns)
    return effects


def row_shares(W: Bool[Array, "n m"], dtype: jnp.dtype) -> Float[Array, " n"]:
    """``phat_i = max(sum_j W_ij, 1) / m``.

    Args:
        W: cells of the arm.
        dtype: of the result.

    Returns:
        The shares.
    """
    return jnp.maximum(jnp.sum(W, axis=1), 1).astype(dtype) / W.shape[1]


def low_rank_shares(W: Bool[Array, "n m"], rank: int, clip: Array) -> Float[Array, "n m"]:
    """Best approximation of the mask of that rank, clipped to [clip, 1].

    Args:
        W: cells of the arm.
        rank: of the approximation (static).
        clip: smallest probability.

    Returns:
        The probabilities.
    """
    shares = leading(W.astype(clip.dtype), rank)
    return jnp.clip(shares.product(), clip, 1)


def leading(X: Float[Array, "n m"], rank: int) -> Factors:
    """Factors of the best approximation of a rank, scaled like `Factors`.

    Args:
        X: matrix.
        rank: of the approximation (static).

    Returns:
        The factors.
    """
    return scaled_factors(*top(X, rank))


def top(X: Float[Array, "n m"], rank: int) -> tuple[Array, Array, Array]:
    """Leading singular triplets ``(u, s, v)``; dense for matrices that are small on both sides.

    Args:
        X: matrix.
        rank: number of triplets (static).

    Returns:
        The triplets, v as columns.
    """
    # A dense SVD of a long table with a short side of 200 costs hundreds of passes over it, the iteration ten.
    dense = 256 if X.size <= CELLS_OF_A_DENSE_SVD else 0
    found = top_svd(X, rank, dense_below=dense)
    return found.u, found.s, found.vt.mT


def scaled_factors(u: Array, s: Array, v: Array, rank: Int[Array, ""] | None = None) -> Factors:
    """Factors of ``u diag(s) v^T`` cut to a traced rank.

    Args:
        u: left singular vectors, (n, k).
        s: singular values, (k,).
        v: right singular vectors, (m, k).
        rank: columns to keep; None: all.

    Returns:
        The factors.
    """
    root = jnp.sqrt(jnp.asarray(v.shape[0], s.dtype))
    kept = jnp.ones_like(s) if rank is None else (jnp.arange(s.size) < rank).astype(s.dtype)
    return Factors(u * (s * kept / root), v * (root * kept))

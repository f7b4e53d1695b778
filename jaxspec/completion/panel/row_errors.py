"""Estimated mean square error of each row of a fitted arm, to first order in the noise."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.completion.panel.arms import Arm, Factors
from jaxspec.completion.panel.design import Design
from jaxspec.linalg.normalisation import matmul


def one_step_row_errors(arm: Arm, factors: Factors, phat: Float[Array, "n _"]) -> Float[Array, " n"]:
    """``(sum_j S_ij h_j + u_i^T [sum_k w_k u_k u_k^T] u_i) / m`` for the best approximation of X.

    With orthonormal factors u, v: ``h_j = ||v_j||^2``, ``w_k = sum_j S_kj (1 - h_j)`` and the entry variance of X
    estimated by ``S_ij = (X_ij - Ahat_ij)^2`` at all cells, zeros included. It cannot see bias.

    Args:
        arm: cells.
        factors: of the best approximation.
        phat: probabilities.

    Returns:
        Mean squares.
    """
    m = arm.Z.shape[1]
    squares = (arm.Z / phat - factors.product()) ** 2
    lever = jnp.sum(factors.right**2, axis=1) / m
    norms = jnp.linalg.norm(factors.left, axis=0)
    u = factors.left / jnp.where(norms > 0, norms, 1)
    weights = jnp.sum(squares * (1 - lever), axis=1)
    middle = matmul((u * weights[:, None]).T, u)
    return (jnp.sum(squares * lever, axis=1) + jnp.sum(matmul(u, middle) * u, axis=1)) / m


def refined_row_errors(W: Float[Array, "n m"], design: Design) -> Float[Array, " n"]:
    """``s2_i tr(G_i^{-1}) + U_i^T [sum_j H_j^{-1} S_j H_j^{-1}] U_i / m`` with ``S_j = sum_k s2_k W_kj U_k U_k^T``.

    Args:
        W: cells, as numbers.
        design: the linear model around the fit.

    Returns:
        Mean squares.
    """
    m = W.shape[1]
    gram = matmul(design.rows.T, design.rows) / m
    own = design.variance * jnp.einsum("npq,pq->n", design.row_inverse, gram, precision="highest")
    middle = jnp.sum(column_noise(W, design), axis=0) / m
    return own + jnp.sum(matmul(design.columns, middle) * design.columns, axis=1)


def column_noise(W: Float[Array, "n m"], design: Design) -> Float[Array, "m q q"]:
    """``H_j^{-1} S_j H_j^{-1}``, the covariance of each column's coefficients given the rows'.

    Args:
        W: cells, as numbers.
        design: the linear model around the fit.

    Returns:
        One matrix per column.
    """
    q = design.columns.shape[1]
    squares = (design.columns[:, :, None] * design.columns[:, None, :]).reshape(len(W), q * q)
    S = matmul((W * design.variance[:, None]).T, squares).reshape(W.shape[1], q, q)
    return matmul(matmul(design.column_inverse, S), design.column_inverse)

"""Squared hinges of the gaps, ``(shift - M)_+``, whose sums the solvers minimise."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxspec.linalg.scaling import safe_divide
from jaxspec.memory.pairs import Pairs

DIRECT = 32  # up to this d the d^2 x d^2 Hessian is factorised: near capacity that costs no more than CG, and is exact

_SCALINGS = 20  # Newton steps along a ray


def hinges(pairs: Pairs, W: Float[Array, "d d"], shift: Array | float = 1.0) -> Float[Array, "p k"]:
    """``(shift - M)_+``, 0 on pairs that do not count.

    Args:
        pairs: the pairs.
        W: the memory.
        shift: a number, or one for each pair.

    Returns:
        The hinges.
    """
    return jnp.where(pairs.mask, jnp.maximum(shift - pairs.gaps(W), 0), 0)


def scaled(pairs: Pairs, W: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The multiple ``t W``, t >= 0, with the least sum of squared hinges, or W itself where none near it is better.

    Args:
        pairs: the pairs.
        W: a memory of any scale.

    Returns:
        The multiple.
    """
    M = jnp.where(pairs.mask, pairs.gaps(W), 0)

    def value(t):
        return jnp.sum(jnp.where(pairs.mask, jnp.maximum(1 - t * M, 0) ** 2, 0))

    def newton(_, t):
        active = jnp.where(t * M < 1, M, 0)
        square = jnp.sum(active**2)
        return jnp.where(square > 0, jnp.maximum(jnp.sum(active) / jnp.where(square > 0, square, 1), 0), t)

    t = jax.lax.fori_loop(0, _SCALINGS, newton, jnp.zeros((), W.dtype))
    return jnp.where(value(t) < value(1.0), t, 1) * W


def factorised_hessian(pairs: Pairs, active: Bool[Array, "p k"], ridge: Array | float):
    """``V -> (H + ridge)^-1 V`` for ``H`` the sum over active pairs, by Cholesky factors.

    Args:
        pairs: the pairs.
        active: those with a positive hinge.
        ridge: >= 0; raised to where the factors exist in the dtype. As a preconditioner the result need not be exact.

    Returns:
        The function.
    """
    H = pairs.gram(active)
    ridge = jnp.maximum(ridge, 4 * jnp.finfo(H.dtype).eps * jnp.max(jnp.diagonal(H)))
    factor = jax.lax.linalg.cholesky(H + ridge * jnp.eye(len(H), dtype=H.dtype), symmetrize_input=False)

    def solve(V):
        return jax.scipy.linalg.cho_solve((factor, True), V.reshape(-1)).reshape(V.shape)

    return solve


def normalised(W: Float[Array, "d d"], multipliers: Float[Array, "p k"]) -> tuple[Array, Array]:
    """W of norm d and multipliers of sum 1; zeros stay.

    Args:
        W: a memory.
        multipliers: >= 0.

    Returns:
        Both.
    """
    size, total = jnp.linalg.norm(W), jnp.sum(multipliers)
    scale = safe_divide(W.shape[0], size)
    return W * scale, multipliers / jnp.where(total > 0, total, 1)

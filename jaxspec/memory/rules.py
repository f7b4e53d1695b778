"""Memories in closed form: the Hebbian rule and the pseudo-inverse."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.linalg import spectral_map
from jaxspec.linalg.scaling import safe_divide
from jaxspec.memory.associations import Associations, checked


def hebbian(a: Associations) -> Float[Array, "d d"]:
    """The Hebbian memory, ``W = sum_mu y_mu x_mu^T``. `theory.hebbian_critical_p` says how much it holds.

    Args:
        a: the associations.

    Returns:
        W, in the units of the keys times those of the values; infinite where that overflows.

    Raises:
        ValueError: shapes that do not fit, p < 2, or non-finite numbers (under jit: `equinox.error_if`).

    Example:
        >>> import jax.numpy as jnp
        >>> hebbian(Associations(jnp.eye(2), 2 * jnp.eye(2)))
        Array([[2., 0.],
               [0., 2.]], dtype=float32)
    """
    _, a = checked(None, a)
    return jnp.matmul(a.y.T, a.x, precision=jax.lax.Precision.HIGHEST)


def pseudo_inverse(a: Associations) -> Float[Array, "d d"]:
    """The least-squares memory, ``W = Y^T pinv(X^T)``: the smallest W of those with the least ``sum |W x - y|^2``.

    Args:
        a: the associations. Singular values of X up to ``max(p, d) eps s_1`` count as zero.

    Returns:
        W; for p <= d independent keys ``W x_mu = y_mu``.

    Raises:
        ValueError: as `hebbian`.

    Example:
        >>> import jax.numpy as jnp
        >>> pseudo_inverse(Associations(2 * jnp.eye(2), jnp.eye(2)))
        Array([[0.5, 0. ],
               [0. , 0.5]], dtype=float32)
    """
    _, a = checked(None, a)
    # X = U S V^T, hence pinv(X^T) = U S^-1 V^T.
    return jnp.matmul(a.y.T, spectral_map(a.x, _reciprocal), precision=jax.lax.Precision.HIGHEST)


def _reciprocal(s):
    return safe_divide(1, s)

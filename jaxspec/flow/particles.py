r"""Particles on the nodes of a quadrature: the mean field of a Gaussian initial law without Monte-Carlo error."""

import itertools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_MOST = 2_000_000


def gauss_hermite_particles(
    shape: Sequence[int], *, order: int, scale: float = 1.0
) -> tuple[Float[Array, "N m n"], Float[Array, " N"]]:
    """Tensor Gauss-Hermite nodes of a matrix with independent normal entries.

    Means of polynomials of degree below ``2 order`` in every entry are exact.

    Args:
        shape: of one particle, (m, n).
        order: nodes per entry; there are ``order ** (m n)`` particles.
        scale: standard deviation of an entry.

    Returns:
        Positions and weights, in the default precision.

    Raises:
        ValueError: ``order < 1``, ``scale <= 0``, or more than two million particles.

    Example:
        >>> x, w = gauss_hermite_particles((1, 2), order=3, scale=0.5)
        >>> x.shape, round(float((w * x[:, 0, 0] ** 2).sum()), 4)
        ((9, 1, 2), 0.25)
    """
    entries = math.prod(shape)
    if order < 1 or not 0 < scale < math.inf:
        raise ValueError(f"order is {order} and scale is {scale}; expected order >= 1 and scale > 0")
    if len(shape) != 2 or entries < 1 or order**entries > _MOST:
        raise ValueError(f"shape is {tuple(shape)} and order is {order}; expected a matrix and at most {_MOST} nodes")
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    weights = weights / weights.sum()
    position = np.array(list(itertools.product(scale * nodes, repeat=entries))).reshape(-1, *shape)
    products = np.array(list(itertools.product(weights, repeat=entries))).prod(axis=1)
    return jnp.asarray(position), jnp.asarray(products)

"""The stochastic random-feature model: loss, gradients and curvature in closed form.

``f(W) = 1/2 E ||(W - W*) phi||^2 = 1/2 <E S, E>`` with ``E = W - W*``, ``S = E[phi phi^T]``: the gradient is ``E S``,
that of a mini-batch ``E S_b`` with its sample covariance ``S_b``, and the Hessian product ``H D = D S``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key


class Model(NamedTuple):
    """One problem, or many along leading axes.

    Attributes:
        target: ``W*``.
        scales: eigenvalues of ``S``, which is diagonal, of mean 1.
    """

    target: Float[Array, "*runs m d"]
    scales: Float[Array, " d"]


class Local(NamedTuple):
    """Inner products along a direction D at one point.

    Attributes:
        slope: ``<g, D>`` with the true gradient.
        batch_slope: ``<g~, D>`` with that of the mini-batch.
        curvature: ``<D, H D>``.
    """

    slope: Float[Array, "*runs"]
    batch_slope: Float[Array, "*runs"]
    curvature: Float[Array, "*runs"]


def teacher(key: Key[Array, ""], side: int, rank: int, power: ArrayLike) -> Model:
    """A random teacher: ``W* = A B / sqrt(side rank)``, Gaussian ``A`` (side x rank) and ``B``, ``S = diag(i^-power)``.

    Args:
        key: randomness.
        side: number of outputs, and of features.
        rank: of ``W*``.
        power: decay of the variances of the features.

    Returns:
        The problem.
    """
    left, right = jax.random.split(key)
    product = jax.random.normal(left, (side, rank)) @ jax.random.normal(right, (rank, side))
    scales = jnp.arange(1, side + 1, dtype=product.dtype) ** (-jnp.asarray(power, product.dtype))
    return Model(product / jnp.sqrt(side * rank), scales / jnp.mean(scales))


def loss(model: Model, weights: Float[Array, "*runs m d"]) -> Float[Array, "*runs"]:
    """``f(W)``."""
    error = weights - model.target
    return jnp.sum(error**2 * model.scales, axis=(-2, -1)) / 2


def gradient(model: Model, weights: Float[Array, "*runs m d"]) -> Float[Array, "*runs m d"]:
    """``g = E S``."""
    return (weights - model.target) * model.scales


def sample_covariance(model: Model, key: Key[Array, ""], batch: int) -> Float[Array, "d d"]:
    """``S_b = mean of phi phi^T`` over a batch of features ``phi ~ N(0, S)``.

    Args:
        model: the problem.
        key: randomness.
        batch: number of features.

    Returns:
        The covariance.
    """
    features = jax.random.normal(key, (batch, *model.scales.shape), model.scales.dtype) * jnp.sqrt(model.scales)
    return features.T @ features / batch


def batch_gradient(
    model: Model, weights: Float[Array, "*runs m d"], covariance: Float[Array, "*runs d d"]
) -> Float[Array, "*runs m d"]:
    """``g~ = E S_b``."""
    return (weights - model.target) @ covariance


def along(
    model: Model,
    weights: Float[Array, "*runs m d"],
    noisy: Float[Array, "*runs m d"],
    direction: Float[Array, "*runs m d"],
) -> Local:
    """What one step along ``-direction`` meets.

    Args:
        model: the problem.
        weights: where.
        noisy: mini-batch gradient ``g~``.
        direction: D.

    Returns:
        The inner products.
    """

    def inner(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, axis=(-2, -1))

    return Local(
        slope=inner(gradient(model, weights), direction),
        batch_slope=inner(noisy, direction),
        curvature=inner(direction, direction * model.scales),
    )

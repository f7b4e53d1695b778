r"""Laws of bulk singular values: Marchenko-Pastur, its transforms outside the bulk, and its generalisation.

A matrix of shape (N1, N2) has independent entries of variance ``s2 / N2`` and aspect ``r = N1 / N2``. Outside the bulk
its hermitised resolvent has the two traces ``g1`` (N1 side) and ``g2`` (N2 side), functions of one number:

    ``x = g1 g2``,  ``s2^2 r x^2 + (s2 (1 + r) - sv^2) x + 1 = 0``,  ``g1 = (1 + s2 x)/sv``,  ``g2 = (1 + s2 r x)/sv``.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxspec.checks import check_numbers

Number = Float[Array, ""] | Int[Array, ""] | float


class Bath(NamedTuple):
    """Resolvent of the initial matrix at one point outside its bulk.

    Attributes:
        sv: the point, a singular value above the edge.
        left: ``g1``, normalised trace on the N1 side.
        right: ``g2``, on the N2 side.
        left_slope: ``d g1 / d sv``.
        right_slope: ``d g2 / d sv``.
    """

    sv: Float[Array, ""]
    left: Float[Array, ""]
    right: Float[Array, ""]
    left_slope: Float[Array, ""]
    right_slope: Float[Array, ""]


def upper_edge(aspect: Number, sigma2: Number) -> Float[Array, ""]:
    """``s_+ = sqrt(s2) (1 + sqrt r)``, the largest singular value of the bulk.

    Args:
        aspect: ``r = N1 / N2``.
        sigma2: ``s2``: entries have variance ``s2 / N2``.

    Returns:
        The edge.
    """
    return jnp.sqrt(sigma2) * (1 + jnp.sqrt(aspect))


def bath_of_product(x: Number, aspect: Number, sigma2: Number) -> Bath:
    """The bath where ``g1 g2 = x``: free of cancellation from infinity (x = 0) down to the edge.

    Args:
        x: ``0 < x <= 1 / (s2 sqrt r)``; at the upper bound the slopes are infinite.
        aspect: ``r = N1 / N2``.
        sigma2: ``s2``.

    Returns:
        `Bath`.
    """
    a, b = sigma2 * x, sigma2 * aspect * x
    sv = jnp.sqrt((1 + a) * (1 + b) / x)
    slope = 2 * sv * x * x / (a * b - 1)
    left, right = (1 + a) / sv, (1 + b) / sv
    return Bath(sv, left, right, (sigma2 * slope - left) / sv, (sigma2 * aspect * slope - right) / sv)


def bath(sv: Number, aspect: Number, sigma2: Number) -> Bath:
    """The bath at a singular value.

    Args:
        sv: singular value, above the edge.
        aspect: ``r = N1 / N2``.
        sigma2: ``s2``.

    Returns:
        `Bath`; NaN inside the bulk.
    """
    middle = sv * sv - sigma2 * (1 + aspect)
    root = jnp.sqrt(middle * middle - 4 * sigma2 * sigma2 * aspect)
    x = jnp.where(middle > 0, 2 / (middle + root), jnp.nan)
    return bath_of_product(x, aspect, sigma2)


def marchenko_pastur(
    sv: Float[Array, "*points"], aspect: Number, sigma2: Number = 1.0
) -> tuple[Float[Array, "*points"], Float[Array, "2"]]:
    r"""Law of the min(N1, N2) singular values of a random matrix, ``N1, N2 -> inf`` at fixed ratio; mass 1.

        ``density = sqrt((s_+^2 - sv^2)(sv^2 - s_-^2)) / (pi s2 min(r, 1) sv)``,  ``s_pm = sqrt(s2) |1 pm sqrt r|``

    Args:
        sv: points, >= 0.
        aspect: ``r = N1 / N2``, > 0.
        sigma2: ``s2``: entries have variance ``s2 / N2``, > 0.

    Returns:
        Density at the points, 0 outside the edges; and the edges ``(s_-, s_+)``.

    Raises:
        ValueError: ``aspect`` or ``sigma2`` not positive.

    Reference:
        Marchenko & Pastur, Math. USSR Sb. 1 (1967).

    Example:
        >>> import jax.numpy as jnp
        >>> density, edges = marchenko_pastur(jnp.array([1.0, 3.0]), 1.0)
        >>> float(density[0]), float(density[1]), float(edges[1])
        (0.5513, 0.0, 2.0)
    """
    check_numbers(0, ends="()", aspect=aspect, sigma2=sigma2)
    return _marchenko_pastur(sv, aspect, sigma2)


@partial(jax.jit, inline=True)
def _marchenko_pastur(sv, aspect, sigma2):
    low, high = jnp.sqrt(sigma2) * jnp.abs(1 - jnp.sqrt(aspect)), upper_edge(aspect, sigma2)
    square = (high**2 - sv**2) * (sv**2 - low**2)
    inside = (square > 0) & (sv > 0)
    scale = jnp.pi * sigma2 * jnp.minimum(aspect, 1.0)
    density = jnp.where(inside, jnp.sqrt(jnp.where(inside, square, 1.0)) / (scale * jnp.where(inside, sv, 1.0)), 0.0)
    return density, jnp.stack([low, high]).astype(density.dtype)


def marchenko_pastur_nodes(
    aspect: Number, sigma2: Number, points: int
) -> tuple[Float[Array, " points"], Float[Array, " points"]]:
    """Nodes (squared singular values) and weights (sum 1) of the Marchenko-Pastur law, spectrally accurate.

    The midpoint rule in the angle of ``s2 (1 + r + 2 sqrt(r) cos angle)``, in which the law is smooth and even, r = 1
    included.

    Args:
        aspect: ``r``.
        sigma2: ``s2``.
        points: number of nodes.

    Returns:
        Nodes in ascending order and weights.
    """
    angle = jnp.pi * (points - 0.5 - jnp.arange(points)) / points
    nodes = sigma2 * (1 + aspect + 2 * jnp.sqrt(aspect) * jnp.cos(angle))
    weights = jnp.sin(angle) ** 2 / nodes
    return nodes, weights / jnp.sum(weights)


def generalized_mp(
    sv: Float[Array, "*points"], population: Float[Array, " atoms"], weights: Float[Array, " atoms"], aspect: Number
) -> tuple[Float[Array, "*points"], Float[Array, ""]]:
    r"""Singular values of an (N, D) matrix whose D columns are independent with covariance ``T / D``.

    The Stieltjes transform of ``M^T M`` solves ``z = -1/m + nu int T/(1 + T m) dH(T)``, ``nu = N/D``; the density is
    ``Im m(z + i0)/pi`` and the upper edge the least value of the right side over ``-1/T_max < m < 0``.

    Args:
        sv: points, > 0.
        population: ``T``, eigenvalues of D times the columns' covariance, >= 0, the largest > 0.
        weights: share of each, sum 1.
        aspect: ``nu = N / D``.

    Returns:
        Density at the points (its mass is min(nu, 1): what is left of 1 are zeros of ``M^T M``) and the upper edge.

    Raises:
        ValueError: arguments out of range.

    Reference:
        Silverstein & Choi, J. Multivariate Anal. 54 (1995).

    Example:
        >>> import jax.numpy as jnp
        >>> density, edge = generalized_mp(jnp.array([1.0]), jnp.array([1.0]), jnp.array([1.0]), 1.0)
        >>> float(density[0]), float(edge)
        (0.551, 2.000)
    """
    check_numbers(0, ends="()", aspect=aspect)
    check_numbers(0, population=population, weights=weights)
    return _generalized(sv, population, weights, aspect)


@jax.jit
def _generalized(sv, population, weights, aspect):
    top = jnp.max(population)
    units, shares = population / top, weights * aspect

    def value(m):
        return -1 / m + jnp.sum(shares * units / (1 + units * m))

    def slope(m):
        return 1 / (m * m) - jnp.sum(shares * (units / (1 + units * m)) ** 2)

    edge = jnp.sqrt(top * value(_increasing_zero(slope, -1.0, 0.0)))
    # The zeros of M^T M are an atom, which the small imaginary part of z would smear out: it is taken away.
    zeros = jnp.maximum(1 - jnp.sum(jnp.where(units > 0, shares, 0.0)), 0.0)
    transform = jax.vmap(lambda z: _upper_solution(value, slope, zeros, z))(jnp.ravel(sv**2 / top))
    density = 2 * jnp.ravel(sv) / top * jnp.maximum(transform.imag, 0) / jnp.pi
    return jnp.where(jnp.ravel(sv) < edge, density, 0.0).reshape(sv.shape), edge


def _increasing_zero(function, low, high):
    def halve(_, ends):
        middle = (ends[0] + ends[1]) / 2
        below = function(middle) < 0
        return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

    low, high = jax.lax.fori_loop(0, 100, halve, (jnp.asarray(low, float), jnp.asarray(high, float)))
    return (low + high) / 2


def _upper_solution(value, slope, zeros, z):
    """Newton's method from high above the real axis down to it, where the solution is a continuous function."""
    stages, smallest = 80, 1e-7
    start = 1j * 10.0 + z

    def stage(index, m):
        point = z + 10.0j * (smallest / 10.0) ** (index / (stages - 1))

        def newton(_, m):
            moved = m - (value(m) - point) / slope(m)
            # The transform lies in the upper half-plane; a step that leaves it is reflected.
            return moved.real + 1j * jnp.abs(moved.imag)

        return jax.lax.fori_loop(0, 4, newton, m)

    return jax.lax.fori_loop(0, stages, stage, -1 / start) + zeros / (z + 1j * smallest)

r"""Measured singular values of a trained matrix over the bulk of its untrained entries."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxspec.checks import check_integers, check_numbers, is_concrete
from jaxspec.dmft.bulk import Number, marchenko_pastur, marchenko_pastur_nodes

_NODES = 4096


class Overlay(NamedTuple):
    """A measured spectrum over the Marchenko-Pastur law.

    Attributes:
        sigma2: ``s2`` of the bulk, given or estimated.
        edges: of the bulk, lower and upper, (2,).
        threshold: above it a singular value is no fluctuation of the edge.
        above: which are, in the order given, (n,).
        count: how many.
        distance: Kolmogorov-Smirnov distance of the others from the law: large where the bulk itself has moved, and
            then the edges mean nothing.
        grid: singular values from 0 to beyond the edge, to draw the law at, (points,).
        density: of the law at the grid, mass 1, (points,).
    """

    sigma2: Float[Array, ""]
    edges: Float[Array, "2"]
    threshold: Float[Array, ""]
    above: Bool[Array, " n"]
    count: Int[Array, ""]
    distance: Float[Array, ""]
    grid: Float[Array, " points"]
    density: Float[Array, " points"]


def overlay(
    singular_values: Float[Array, " n"],
    shape: tuple[int, int],
    sigma2: Number | None = None,
    *,
    pad: Number = 2.0234,
    points: int = 200,
) -> Overlay:
    r"""Which singular values of a matrix have left the bulk that its shape and entries predict.

    Entries of variance ``v = s2 / N2`` have their largest singular value at ``sqrt(v (m + pad w))``,
    ``m = (sqrt N1 + sqrt N2)^2``, ``w = (sqrt N1 + sqrt N2) (1/sqrt N1 + 1/sqrt N2)^{1/3}``, with a fluctuation ``pad``
    of Tracy and Widom's law (real entries).

    Args:
        singular_values: all ``min(N1, N2)`` of them, in any order.
        shape: static; ``(N1, N2)`` of the matrix.
        sigma2: variance of the untrained entries times N2 (after weight decay: of what is left of them); None:
            estimated from the median, which few outliers hardly move.
        pad: quantile of Tracy and Widom's law: 2.0234 is that of 99 %, 0.9793 of 95 %.
        points: static; of the grid.

    Returns:
        `Overlay`.

    Raises:
        ValueError: a number of singular values that does not fit the shape, values that are negative or not finite, all
            of them zero at an unknown ``sigma2``, ``sigma2`` not positive.

    Reference:
        Johnstone, Ann. Statist. 29 (2001).

    Example:
        >>> import jax
        >>> from jaxspec.linalg import singular_values
        >>> w = jax.random.normal(jax.random.key(0), (200, 100)) / 10
        >>> spiked = w.at[:].add(0.3)
        >>> found = overlay(singular_values(spiked), spiked.shape)
        >>> int(found.count), float(found.sigma2)
        (1, 1.0)
    """
    rows, columns = shape
    check_integers(1, points=points, rows=rows, columns=columns)
    if singular_values.shape != (min(shape),):
        raise ValueError(f"singular_values have shape {singular_values.shape}; expected ({min(shape)},) of {shape}")
    check_numbers(0, singular_values=singular_values)
    aspect = rows / columns
    squares, weights = marchenko_pastur_nodes(aspect, 1.0, _NODES)
    law = jnp.cumsum(weights) - weights / 2
    if sigma2 is None:
        if is_concrete(singular_values) and not np.median(np.asarray(singular_values)) > 0:
            raise ValueError("singular_values have the median 0; expected sigma2 for such a matrix")
        sigma2 = jnp.median(singular_values) ** 2 / jnp.interp(0.5, law, squares)
    check_numbers(0, ends="()", sigma2=sigma2)
    sigma2 = jnp.asarray(sigma2, float)
    root = rows**0.5 + columns**0.5
    fluctuation = root * (rows**-0.5 + columns**-0.5) ** (1 / 3)
    threshold = jnp.sqrt(sigma2 / columns * (root**2 + pad * fluctuation))
    above = singular_values > threshold
    edges = marchenko_pastur(jnp.ones(1), aspect, sigma2)[1]
    grid = jnp.linspace(0.0, 1.15 * edges[1], points)
    density = marchenko_pastur(grid, aspect, sigma2)[0]
    distance = _distance(singular_values, above, jnp.sqrt(sigma2 * squares), law)
    return Overlay(sigma2, edges, threshold, above, jnp.sum(above), distance, grid, density)


def _distance(values, above, nodes, law):
    """Kolmogorov-Smirnov distance of the values that are not ``above`` from a law known at ascending nodes."""
    inside = jnp.sort(jnp.where(above, jnp.inf, values))
    count, rank = jnp.sum(~above), jnp.arange(len(values))
    expected = jnp.interp(inside, nodes, law, left=0.0, right=1.0)
    gap = jnp.maximum(jnp.abs((rank + 1) / count - expected), jnp.abs(rank / count - expected))
    return jnp.max(jnp.where(rank < count, gap, 0.0))

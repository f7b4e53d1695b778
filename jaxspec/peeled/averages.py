"""Reynolds averages, projections onto what a permutation action leaves alone; targets cut into orbits of columns."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxspec.peeled.actions import PermutationAction, components, images_up_to
from jaxspec.peeled.checks import floating

# Longest orbit of a column that is enumerated to check its declared size.
_CHECKED_ORBIT = 1000


def reynolds(M: Float[Array, "*batch V m"], labels: Any, count: int) -> Float[Array, "*batch V m"]:
    """Mean over the group: every entry becomes the mean of its orbital.

    Args:
        M: matrices, with leading batch axes.
        labels: of `orbitals`, (V, m).
        count: number of orbitals (static).

    Returns:
        The projections; idempotent, self-adjoint and without growth of any unitarily invariant norm.

    Raises:
        ValueError: labels of another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxspec.peeled import orbitals
        >>> count, labels = orbitals(PermutationAction.symmetric(2))
        >>> reynolds(jnp.array([[1.0, 0.0], [2.0, 3.0]]), labels, count)
        Array([[2., 1.],
               [1., 2.]], dtype=float32)
    """
    if np.shape(labels) != M.shape[-2:]:
        raise ValueError(f"labels has shape {np.shape(labels)}; expected {M.shape[-2:]}")
    return _reynolds(M, jnp.asarray(labels), count)


@partial(jax.jit, static_argnums=2, inline=True)
def _reynolds(M: Array, labels: Int[Array, "V m"], count: int) -> Array:
    flat = labels.ravel()
    entries = jnp.moveaxis(M.reshape(*M.shape[:-2], -1), -1, 0)
    sizes = jax.ops.segment_sum(jnp.ones(flat.shape, M.dtype), flat, count)
    means = jax.ops.segment_sum(entries, flat, count) / jnp.expand_dims(sizes, tuple(range(1, entries.ndim)))
    return jnp.moveaxis(means[flat], 0, -1).reshape(M.shape)


class Representatives(NamedTuple):
    """One column for each orbit of contexts.

    Attributes:
        columns: targets, (V, R).
        mass: weight of each whole orbit, (R,), sum 1.
        size: number of contexts in each orbit, (R,).
    """

    columns: np.ndarray
    mass: np.ndarray
    size: np.ndarray


def orbit_representatives(
    targets: Any, action: PermutationAction, weights: Any = None, *, tol: float = 1e-9
) -> Representatives:
    """Cuts full targets into orbits of their columns: what `solve_orbits` takes.

    Args:
        targets: (V, m), whose columns the action permutes. Columns that agree count as copies of one.
        action: on the tokens.
        weights: of the contexts, (m,), equal on each orbit; None: 1/m each.
        tol: largest Euclidean distance of columns that counts as equal.

    Returns:
        The representatives, in the order of their first columns.

    Raises:
        ValueError: targets that the action does not leave alone, with the group defect: the distance from the permuted
            columns to the nearest columns, relative to the norm of the targets; likewise weights.

    Example:
        >>> import numpy as np
        >>> orbit_representatives(np.eye(3), PermutationAction.cyclic(3)).size
        array([3])
    """
    P = np.asarray(targets, float)
    if P.ndim != 2 or P.shape[0] != action.degree:
        raise ValueError(f"targets has shape {P.shape}; expected ({action.degree}, m)")
    m = P.shape[1]
    pi = np.full(m, 1 / m) if weights is None else np.asarray(weights, float)
    if pi.shape != (m,):
        raise ValueError(f"weights has shape {pi.shape}; expected ({m},)")
    equal = _equal_columns(P, tol)
    copies, masses = np.bincount(equal), np.bincount(equal, pi)
    images = [equal[_images(P, generator, tol)] for generator in action.generators]
    for image in images:
        if np.any(copies[image] != copies[equal]) or np.any(np.abs(masses[image] - masses[equal]) > tol):
            raise ValueError("weights are not invariant under the action; expected equal mass on each orbit of columns")
    first = np.unique(equal, return_index=True)[1]
    # One node for each different column; edges along the generators.
    maps = [image[first] for image in images]
    count, labels = components(maps)
    starts = np.array([first[labels == label].min() for label in range(count)])
    columns = labels[equal]
    return Representatives(P[:, starts], np.bincount(columns, pi), np.bincount(columns))


def _equal_columns(P: np.ndarray, tol: float) -> np.ndarray:
    """Label of each column, equal where columns agree to ``tol``."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(P.T).query_pairs(tol, output_type="ndarray")
    identity = np.arange(P.shape[1])
    return components([identity], edges=pairs)[1]


def _images(P: np.ndarray, generator: np.ndarray, tol: float) -> np.ndarray:
    """Index of the column that each column is moved to."""
    from scipy.spatial import cKDTree

    moved = np.empty_like(P)
    moved[generator] = P
    distances, nearest = cKDTree(P.T).query(moved.T)
    if distances.max() > tol:
        defect = np.sqrt(np.sum(distances**2)) / np.linalg.norm(P)
        raise ValueError(f"targets are not invariant under the action: group defect {defect:.3g}; expected 0")
    return nearest


def check_orbit_sizes(columns: Any, action: PermutationAction, sizes: np.ndarray) -> None:
    """Raises `ValueError` unless each size is a multiple of the number of images of its column.

    Columns with more than 1000 images are taken on trust.

    Args:
        columns: (V, R).
        action: on the tokens.
        sizes: (R,).
    """
    for index, (column, size) in enumerate(zip(np.asarray(floating("representatives", columns)).T, sizes, strict=True)):
        images = images_up_to(column, action, min(int(size), _CHECKED_ORBIT))
        if images is None and size > _CHECKED_ORBIT:
            continue
        if images is None or size % len(images):
            found = f"more than {size}" if images is None else len(images)
            raise ValueError(
                f"orbit_size[{index}] is {size} and representative {index} has {found} images under the action; "
                "expected a multiple of their number"
            )

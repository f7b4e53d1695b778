"""Directions of the residual stream, checked and made orthonormal; and what is left of vectors without them."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxspec.linalg.orthonormal import checked_basis
from jaxspec.linalg.scaling import compute_dtype


def orthonormal_directions(
    directions: ArrayLike, *, width: int | None = None, name: str = "directions"
) -> Float[Array, "d k"]:
    """The given columns where they are orthonormal, else an orthonormal basis of their span.

    Args:
        directions: columns, (d, k), k <= d; one direction may be given as (d,).
        width: expected d.
        name: of the argument, for the messages.

    Returns:
        Orthonormal columns, in float32 or wider. Dependent columns are dropped; under a trace, where shapes cannot
        depend on numbers, zeros stand in their place, and zeros block nothing.

    Raises:
        ValueError: another shape, k > d, or entries that are not finite.
        TypeError: not real floating point.

    Warns:
        UserWarning: columns were dropped.

    Example:
        >>> import jax.numpy as jnp
        >>> orthonormal_directions(jnp.array([3.0, 4.0]))
        Array([[0.6],
               [0.8]], dtype=float32)
    """
    shape = jnp.shape(directions)
    if len(shape) == 1:
        directions = jnp.reshape(directions, (-1, 1))
    elif len(shape) != 2:
        raise ValueError(f"{name} has shape {shape}; expected ({width or 'd'}, k)")
    if width is not None and jnp.shape(directions)[0] != width:
        raise ValueError(f"{name} has shape {shape}; expected ({width}, k)")
    return checked_basis(directions, name)


def basis_of(directions: ArrayLike, width: int) -> Float[Array, "d k"]:
    """As `orthonormal_directions`, but directions that are traced themselves are taken to be orthonormal.

    Args:
        directions: columns, (d, k), or one (d,).
        width: expected d.

    Returns:
        The columns, in float32 or wider.

    Raises:
        ValueError: another shape, or entries that are not finite.
        TypeError: not real floating point.
    """
    if not isinstance(directions, jax.core.Tracer):
        return orthonormal_directions(directions, width=width)
    u = directions[:, None] if directions.ndim == 1 else directions
    if u.ndim != 2 or u.shape[0] != width:
        raise ValueError(f"directions has shape {directions.shape}; expected ({width}, k), the width of h")
    return u.astype(compute_dtype(u, "directions"))


@partial(jax.jit, inline=True)
def without(
    x: Float[Array, "*batch d"], basis: Float[Array, "d k"], share: float | Float[Array, ""] = 1.0
) -> Float[Array, "*batch d"]:
    """``x - w U U^T x`` on the last axis, computed in float32 or wider, in the dtype of ``x``.

    Args:
        x: vectors.
        basis: orthonormal columns ``U``.
        share: ``w``, how much of the part along the columns is taken away.

    Returns:
        What is orthogonal to the columns, for ``w = 1``.
    """
    y = x.astype(jnp.promote_types(compute_dtype(x), basis.dtype))
    along = jnp.matmul(y, basis.astype(y.dtype), precision="highest")
    part = jnp.matmul(along, basis.T.astype(y.dtype), precision="highest")
    return (y - jnp.asarray(share, y.dtype) * part).astype(x.dtype)

"""Directions of the residual stream, checked and made orthonormal; and what is left of vectors without them."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxspec.linalg import orthonormal_basis
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
    u = jnp.asarray(directions)
    u = u[:, None] if u.ndim == 1 else u
    if u.ndim != 2 or u.shape[1] > u.shape[0] or u.shape[0] != (width or u.shape[0]):
        raise ValueError(f"{name} has shape {u.shape}; expected ({width or 'd'}, k) with k <= {width or 'd'}")
    u = u.astype(compute_dtype(u, name))
    if isinstance(directions, jax.core.Tracer):
        u = eqx.error_if(u, ~jnp.all(jnp.isfinite(u)), f"{name} holds entries that are not finite")
        return orthonormal_basis(_unit_columns(u))[0]
    with jax.ensure_compile_time_eval():
        return _concrete(u, name)


def _concrete(u, name):
    values = np.asarray(u)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds entries that are not finite")
    gram = values.T.astype(float) @ values
    if np.all(np.abs(gram - np.eye(len(gram))) <= 8 * np.finfo(values.dtype).eps):
        return u
    basis, kept = orthonormal_basis(_unit_columns(u))
    kept = np.asarray(kept)
    if not kept.all():
        warnings.warn(
            f"{name} has {kept.size} columns of rank {kept.sum()}; dependent ones are dropped", UserWarning, 3
        )
    return basis[:, : kept.sum()]


def _unit_columns(u):
    """Columns of length one, or zero: how long a direction is says nothing about the rank."""
    largest = jnp.max(jnp.abs(u), axis=0, initial=0)
    u = u / jnp.where(largest == 0, 1, largest)
    length = jnp.sqrt(jnp.sum(u * u, axis=0))
    return u / jnp.where(length == 0, 1, length)


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

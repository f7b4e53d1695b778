"""Orthonormal bases of column spaces, from columns that need not be independent."""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxspec.checks import finite, is_concrete
from jaxspec.linalg import decompositions
from jaxspec.linalg.scaling import compute_dtype, power_of_two_scale


def orthonormal_basis(
    x: Float[Array, "*batch m k"],
) -> tuple[Float[Array, "*batch m r"], Bool[Array, "*batch r"]]:
    r"""Left singular vectors ``u_j`` of ``X`` with ``s_j > 10 max(m, k) eps s_1``: a basis of the range of ``X``.

    Args:
        x: columns, with leading batch axes. bfloat16 and float16 are computed in, and returned as, float32.

    Returns:
        ``(basis, kept)``, ``r = min(m, k)``: orthonormal columns, and zeros in the places of those that the rank does
        not reach, which ``kept`` marks as False. NaN where the matrix is not finite.

    Raises:
        TypeError: integer or complex ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> basis, kept = orthonormal_basis(jnp.array([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]]))
        >>> kept
        Array([ True, False], dtype=bool)
        >>> jnp.round(basis @ basis.T, 3)  # the projection onto (1, 0, 1)
        Array([[0.5, 0. , 0.5],
               [0. , 0. , 0. ],
               [0.5, 0. , 0.5]], dtype=float32)
    """
    y = jnp.asarray(x, compute_dtype(x))
    if y.size == 0:
        *batch, m, k = y.shape
        return jnp.zeros((*batch, m, min(m, k)), y.dtype), jnp.zeros((*batch, min(m, k)), bool)
    return _left_vectors(y)


@partial(jax.jit, inline=True)
def _left_vectors(y):
    u, s, _ = decompositions.svd(y / power_of_two_scale(y, keepdims=True))
    kept = s > 10 * max(y.shape[-2:]) * jnp.finfo(y.dtype).eps * s[..., :1]
    # A product, not a selection: NaN of a matrix that is not finite must reach the caller.
    return u * kept[..., None, :].astype(u.dtype), kept


def checked_basis(columns: Any, name: str = "directions") -> Float[Array, "*batch d r"]:
    """The given columns where they are orthonormal, else an orthonormal basis of their span.

    Args:
        columns: (*batch, d, k), k <= d; of any length.
        name: of the argument, for the messages.

    Returns:
        Orthonormal columns, in float32 or wider; of the whole space the identity, by which nothing at all is left.
        Columns that the rank does not reach are dropped. Under a trace, where shapes cannot depend on numbers, and in
        a batch, of which some member needs them, zeros stand in their places.

    Raises:
        ValueError: fewer than two axes, k > d, or entries that are not finite (under a trace, when it runs).
        TypeError: not real floating point.

    Warns:
        UserWarning: columns were dropped (outside a trace).

    Example:
        >>> import jax.numpy as jnp
        >>> checked_basis(jnp.array([[3.0], [4.0]]))
        Array([[0.6],
               [0.8]], dtype=float32)
    """
    shape = jnp.shape(columns)
    if len(shape) < 2 or shape[-1] > shape[-2]:
        raise ValueError(
            f"{name} has shape {shape}; expected (*batch, d, k) with k <= {shape[-2] if len(shape) > 1 else 'd'}"
        )
    dtype = compute_dtype(columns, name)
    if not is_concrete(columns):
        return orthonormal_basis(_unit_columns(finite(name, columns.astype(dtype))))[0]
    with jax.ensure_compile_time_eval():  # constants inside a traced function are numbers all the same
        return _of_numbers(jnp.asarray(columns, dtype), name)


def _of_numbers(u, name):
    values = np.asarray(u)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds entries that are not finite; expected finite ones")
    *_, d, k = values.shape
    gram = np.swapaxes(values, -1, -2).astype(float) @ values
    if k < d and np.all(np.abs(gram - np.eye(k)) <= 8 * np.finfo(values.dtype).eps):
        return u
    basis, kept = orthonormal_basis(_unit_columns(u))
    ranks = np.asarray(kept).sum(axis=-1)
    if np.any(ranks < k):
        warnings.warn(
            f"{name} has {k} columns of rank {ranks.min()}; dependent ones are dropped", UserWarning, stacklevel=4
        )
    elif k == d:
        return jnp.broadcast_to(jnp.eye(d, dtype=u.dtype), u.shape)
    return basis[..., : int(ranks.max(initial=0))]


@partial(jax.jit, inline=True)
def _unit_columns(u):
    """Columns of length one, or zero: how long a direction is says nothing about the rank."""
    largest = jnp.max(jnp.abs(u), axis=-2, keepdims=True, initial=0)
    u = u / jnp.where(largest == 0, 1, largest)
    length = jnp.sqrt(jnp.sum(u * u, axis=-2, keepdims=True))
    return u / jnp.where(length == 0, 1, length)

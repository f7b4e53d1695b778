"""Argument checks shared by the proximal operators."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact

from jaxspec.checks import is_concrete
from jaxspec.linalg.scaling import compute_dtype


def batch_values(
    x: Inexact[Array, "..."], value: ArrayLike, name: str, *, matrix_axes: int = 2, allow_complex: bool = False
) -> Float[Array, "..."]:
    """Cast a per-matrix parameter to the dtype in which ``x`` is computed, checking what can be checked.

    The sign is checked where the value is known (Python numbers and concrete arrays); under a trace the check is
    skipped, since it would sit in the innermost loop of a solver.

    Args:
        x: matrices, (*batch, m, n).
        value: scalar, or array that broadcasts over the batch axes.
        name: the argument's name, for the messages.
        matrix_axes: number of trailing axes of ``x`` that are not batch axes.
        allow_complex: whether ``x`` may be complex.

    Returns:
        The value as a real array in the compute precision.

    Raises:
        ValueError: negative or NaN value, too few axes in ``x``, or shapes that do not broadcast.
        TypeError: integer or complex ``x``.
    """
    dtype = jnp.finfo(compute_dtype(x, allow_complex=allow_complex)).dtype
    if x.ndim < matrix_axes:
        raise ValueError(f"x has shape {x.shape}; expected at least {matrix_axes} axes")
    batch = x.shape[: x.ndim - matrix_axes]
    try:
        fits = np.broadcast_shapes(jnp.shape(value), batch) == batch
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} has shape {jnp.shape(value)}; expected one that broadcasts to the batch shape {batch}"
        )
    if is_concrete(value) and not np.all(np.asarray(value) >= 0):
        raise ValueError(f"{name} is {value}; expected a number >= 0")
    return jnp.asarray(value, dtype)

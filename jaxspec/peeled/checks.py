"""Checks of arguments that several modules of this package share. What is traced is not checked."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxspec.checks import check_numbers, finite, is_concrete
from jaxspec.linalg.scaling import compute_dtype
from jaxspec.solvers.stopping import default_tol

# Iterations without a fall of a gap that is near rounding, after which a run ends as stalled.
PATIENCE = 100


def floating(name: str, value: Any) -> Array:
    """Array in the precision of the computation: integers become floats, half precision float32.

    Args:
        name: of the argument, for the message.
        value: array-like.

    Returns:
        float32 or float64 array.

    Raises:
        TypeError: complex input.
    """
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        array = array.astype(jnp.result_type(float))
    return array.astype(compute_dtype(array, name))


def check_distributions(name: str, columns: Any) -> None:
    """Raises `ValueError` unless every column of a known matrix is a probability vector.

    Sums may be off by 1e-6 (float64) or 1e-4 (float32).

    Args:
        name: of the argument, for the message.
        columns: (V, m).
    """
    if not is_concrete(columns):
        return
    values = np.asarray(columns, float)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} has shape {values.shape}; expected (V, m) with at least one entry")
    tolerance = 1e-4 if jnp.finfo(columns.dtype).bits <= 32 else 1e-6
    sums = values.sum(axis=0)
    wrong = ~(np.all(values >= 0, axis=0) & (np.abs(sums - 1) <= tolerance))
    if not wrong.any():
        return
    column = int(np.argmax(wrong))
    p = values[:, column]
    if not np.all(np.isfinite(p)):
        raise ValueError(f"{name}: column {column} holds {p[~np.isfinite(p)][0]}; expected finite numbers")
    if np.any(p < 0):
        raise ValueError(f"{name}: column {column} holds {p.min():g}; expected probabilities >= 0")
    raise ValueError(f"{name}: column {column} sums to {sums[column]:.9g}; expected 1")


def check_masses(name: str, masses: Any, count: int) -> None:
    """Raises `ValueError` unless ``masses`` are ``count`` numbers >= 0 whose sum, where known, is 1 up to 1e-4.

    Args:
        name: of the argument, for the message.
        masses: (count,).
        count: how many are expected.
    """
    if np.shape(masses) != (count,):
        raise ValueError(f"{name} has shape {np.shape(masses)}; expected ({count},)")
    if not is_concrete(masses):
        return
    values = np.asarray(masses, float)
    check_numbers(0, **{name: values})
    if abs(values.sum() - 1) > 1e-4:
        raise ValueError(f"{name} sums to {values.sum():.9g}; expected 1")


def masses_or_uniform(
    name: str, masses: Any, count: int, dtype: Any, *, checked: bool = True
) -> Float[Array, " count"]:
    """``masses`` as an array; None: all equal to 1 / count.

    Args:
        name: of the argument, for the message.
        masses: (count,) or None.
        count: how many are expected.
        dtype: of the array.
        checked: whether to look at the values.
    """
    if masses is None:
        return jnp.full((count,), 1 / count, dtype)
    if checked:
        check_masses(name, masses, count)
    return jnp.asarray(masses, dtype)


def checked_start(init: Any, shape: tuple[int, ...], dtype: Any, *, checked: bool = True) -> Array:
    """The logits that a solver starts from.

    Args:
        init: logits, a solution that holds them, or None: 0.
        shape: that they must have.
        dtype: of the computation.
        checked: whether to look at the values.

    Returns:
        The logits.

    Raises:
        ValueError: another shape, or known entries that are not finite.
    """
    if init is None:
        return jnp.zeros(shape, dtype)
    logits = getattr(init, "logits", init)
    if np.shape(logits) != shape:
        raise ValueError(f"init has shape {np.shape(logits)}; expected {shape}")
    logits = jnp.asarray(logits, dtype)
    return finite("init", logits) if checked and is_concrete(logits) else logits


def check_scale(init_scale: Any) -> None:
    """Raises `ValueError` unless the scale of a random start is traced, or positive and finite.

    Args:
        init_scale: of the factors.
    """
    if is_concrete(init_scale) and not 0 < float(init_scale) < math.inf:
        raise ValueError(f"init_scale is {init_scale}; expected a finite number > 0: 0 is a saddle")


def default_grad_tol(tol: Any, dtype: Any) -> Float[Array, ""]:
    """Norm of the gradient at which the factorised solvers call a point stationary.

    Args:
        tol: the norm; None: 1e-5 in float32, 1e-9 in float64.
        dtype: of the computation.
    """
    return default_tol(tol, dtype, 1e-5, 1e-9)


def default_gap(tol: Any, dtype: Any) -> Float[Array, ""]:
    """Absolute duality gap at which a solver stops.

    Args:
        tol: the gap; None: 1e-6 in float32, 1e-10 in float64.
        dtype: of the computation.
    """
    check_numbers(0, tol=tol)
    return default_tol(tol, dtype, 1e-6, 1e-10)

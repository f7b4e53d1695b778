"""Checks of the entries of arrays: raised now where they are known, and when the program runs where they are traced."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxspec.checks import is_concrete


def checked(value: Any, good: Callable[..., Array], name: str, expected: str, *given: Any) -> Any:
    """The value; raises now where it is known, and when the program runs where it is traced.

    Args:
        value: an array.
        good: (value, *given) -> True where it is as expected; compiled once for a function and a shape.
        name: of the argument, for the message.
        expected: of it, for the message.
        *given: further arrays.

    Returns:
        The value.

    Raises:
        ValueError: for a known value that is not good, with the first such entry.
    """
    if is_concrete(value, *given):
        if not _all(good, value, *given):
            raise_unless(np.asarray(good(value, *given)), np.asarray(value), name, expected)
        return value
    return eqx.error_if(value, ~good(value, *given), f"{name} holds other values; expected {expected}")


@partial(jax.jit, static_argnums=0)
def _all(good: Callable[..., Array], *arrays: Array) -> Array:
    return jnp.all(good(*arrays))


def zero_or_one(x: Array) -> Array:
    """Where numbers are 0 or 1."""
    return (x == 0) | (x == 1)


def non_negative(x: Array) -> Array:
    """Where numbers are finite and at least 0."""
    return jnp.isfinite(x) & (x >= 0)


def probability(x: Array) -> Array:
    """Where numbers are in [0, 1]."""
    return (x >= 0) & (x <= 1)


def finite_where(x: Array, where: Array) -> Array:
    """Where numbers are finite, or do not count."""
    return ~where | jnp.isfinite(x)


def raise_unless(good: np.ndarray, value: np.ndarray, name: str, expected: str) -> None:
    """Raises `ValueError`, with the first entry that is not as expected, if there is one.

    Args:
        good: True where an entry is as expected.
        value: the entries.
        name: of the argument, for the message.
        expected: of it, for the message.
    """
    if good.all():
        return
    if not value.ndim:
        raise ValueError(f"{name} is {value}; expected {expected}")
    bad = np.argwhere(~good)
    more = f" ({len(bad)} such entries)" if len(bad) > 1 else ""
    raise ValueError(f"{name} holds {value[tuple(bad[0])]} at {bad[0].tolist()}{more}; expected {expected}")

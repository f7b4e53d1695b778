"""Checks of arguments, where they are known."""

from typing import Any

import jax
import numpy as np


def traced(value: Any) -> bool:
    """Whether the numbers of ``value`` are unknown while Python runs."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def check_numbers(low: float, *, closed: bool, **values: Any) -> None:
    """Raise `ValueError` unless every value is traced, or finite and above ``low`` (``closed``: or equal) throughout.

    Args:
        low: the bound.
        closed: whether the bound itself is allowed.
        **values: numbers or arrays under the names of their arguments.
    """
    for name, value in values.items():
        if traced(value):
            continue
        numbers = np.asarray(value, float)
        if not np.all(np.isfinite(numbers)) or np.any(numbers < low) or (not closed and np.any(numbers == low)):
            raise ValueError(f"{name} is {value}; expected finite and {'>=' if closed else '>'} {low:g}")


def check_integers(low: int, **values: Any) -> None:
    """Raise unless every value is a Python integer and at least ``low``: `TypeError` or `ValueError`.

    Args:
        low: the bound.
        **values: integers under the names of their arguments.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} is {value!r}; expected an integer, which is static")
        if value < low:
            raise ValueError(f"{name} is {value}; expected an integer >= {low}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise `ValueError` unless ``value`` is one of ``choices``.

    Args:
        name: of the argument.
        value: what the caller gave.
        choices: accepted values.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {choices}")

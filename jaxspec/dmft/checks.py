"""Checks of arguments, where they are known."""

from typing import Any

import numpy as np

from jaxspec.linalg.concrete import is_concrete


def check_numbers(low: float, *, closed: bool, **values: Any) -> None:
    """Raise `ValueError` unless every value is traced, or finite and above ``low`` (``closed``: or equal) throughout.

    Args:
        low: the bound.
        closed: whether the bound itself is allowed.
        **values: numbers or arrays under the names of their arguments.
    """
    for name, value in values.items():
        if not is_concrete(value):
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


def check_schedule(name: str, value: Any, steps: int) -> None:
    """Raise `ValueError` unless ``value`` is one number, or one for each update.

    Args:
        name: of the argument.
        value: a number or an array.
        steps: number of updates.
    """
    if np.shape(value) not in ((), (steps,)):
        raise ValueError(f"{name} has shape {np.shape(value)}; expected a number or ({steps},), one for each update")


def check_decay(eta: Any, weight_decay: Any) -> None:
    """Raise `ValueError` where a known weight decay is negative, or leaves nothing of the parameters in one update.

    Args:
        eta: learning rate, or one for each update.
        weight_decay: the same.
    """
    check_numbers(0, closed=True, weight_decay=weight_decay)
    if not is_concrete(eta, weight_decay) or np.shape(eta) != np.shape(weight_decay) != () != np.shape(eta):
        return  # schedules of two lengths: refused where the number of updates is known
    if np.any(np.asarray(eta) * np.asarray(weight_decay) >= 1):
        raise ValueError(f"weight_decay is {weight_decay}; expected eta * weight_decay < 1 in every update")

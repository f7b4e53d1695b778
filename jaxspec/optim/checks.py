"""Checks of hyper-parameters when an optimiser is built."""

import math
from typing import Any

from jaxspec.checks import check_numbers, is_concrete


def checked_number(name: str, value: Any, *, low: float = -math.inf, high: float = math.inf, open_low: bool = False):
    """``value`` as a Python float, checked against ``[low, high]``; a traced value is returned as it is.

    Args:
        name: the argument's name, for the message.
        value: a number, or an array that holds one.
        low: lower bound.
        high: upper bound.
        open_low: whether ``low`` itself is refused.

    Returns:
        The number.

    Raises:
        ValueError: not finite, or out of bounds.

    Example:
        >>> checked_number("tol", 0.1, low=0.0)
        0.1
    """
    if not is_concrete(value):
        return value
    check_numbers(low, high, ends="(]" if open_low else "[]", **{name: value})
    return float(value)

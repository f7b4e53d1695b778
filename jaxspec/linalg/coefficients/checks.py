"""Checks of numbers shared by the coefficient generators."""

import math


def finite(name: str, value: float) -> float:
    """``value`` as a float.

    Args:
        name: the argument's name, for the message.
        value: a number.

    Returns:
        The float.

    Raises:
        ValueError: not finite.
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; expected a finite number")
    return value


def inside(name: str, value: float, low: float, high: float, *, low_open: bool = True, high_open: bool = True) -> float:
    """``value`` as a float, checked against an interval.

    Args:
        name: the argument's name, for the message.
        value: a number.
        low: left end.
        high: right end.
        low_open: whether ``low`` itself is refused.
        high_open: whether ``high`` itself is refused.

    Returns:
        The float.

    Raises:
        ValueError: not finite, or outside the interval.
    """
    value = finite(name, value)
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    if not (above and below):
        interval = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
        raise ValueError(f"{name} is {value}; expected a number in {interval}")
    return value


def count(name: str, value: int, low: int = 1) -> int:
    """``value`` as an int.

    Args:
        name: the argument's name, for the message.
        value: a number; a float that holds an integer will do.
        low: smallest value allowed.

    Returns:
        The int.

    Raises:
        ValueError: not an integer, or below ``low``.
    """
    if int(value) != value or value < low:
        raise ValueError(f"{name} is {value}; expected an integer >= {low}")
    return int(value)

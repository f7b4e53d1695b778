"""Checks of numbers shared by the coefficient generators."""

from jaxspec.checks import check_numbers


def inside(name: str, value: float, low: float, high: float, ends: str = "()") -> float:
    """``value`` as a float, checked against an interval.

    Args:
        name: the argument's name, for the message.
        value: a number.
        low: left end.
        high: right end.
        ends: as in `jaxspec.checks.check_numbers`.

    Returns:
        The float.

    Raises:
        ValueError: not finite, or outside the interval.
    """
    check_numbers(low, high, ends=ends, **{name: value})
    return float(value)


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

"""Checks of arguments that all floors share."""

from typing import Any


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise `ValueError` unless ``value`` is one of ``choices``.

    Args:
        name: of the argument, for the message.
        value: what the caller gave.
        choices: accepted values.

    Example:
        >>> check_choice("side", "left", ("left", "right"))
        >>> check_choice("side", "top", ("left", "right"))
        Traceback (most recent call last):
        ValueError: side is 'top'; expected one of ('left', 'right')
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {choices}")

"""Checks of arguments that all floors share, and warnings that point at the caller."""

import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp


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


def check_key(key: Any) -> None:
    """Raise `TypeError` unless ``key`` is one typed random key; a traced one is.

    Args:
        key: what the caller gave.

    Example:
        >>> check_key(jax.random.key(0))
        >>> check_key(0)
        Traceback (most recent call last):
        TypeError: key is 0; expected one typed key, for example jax.random.key(0)
    """
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.ndim:
        raise TypeError(f"key is {key!r}; expected one typed key, for example jax.random.key(0)")


def check_given(**values: Any) -> None:
    """Raise `TypeError` for a required argument that was left out where Python needs a default for it.

    Args:
        **values: by the name of the argument.

    Example:
        >>> check_given(lam=0.0)
        >>> check_given(lam=None)
        Traceback (most recent call last):
        TypeError: lam is None; expected a value: it has no default
    """
    for name, value in values.items():
        if value is None:
            raise TypeError(f"{name} is None; expected a value: it has no default")


def warn_caller(text: str) -> None:
    """`UserWarning` at the line of the user's program: the one that called the library, however deep this is.

    Args:
        text: of the warning.

    Example:
        >>> with warnings.catch_warnings(record=True) as seen:
        ...     warnings.simplefilter("always")
        ...     warn_caller("one row is empty")
        >>> str(seen[0].message)
        'one row is empty'
    """
    frame, depth, outermost = sys._getframe(1), 1, 0
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "jaxspec":
            outermost = depth
        frame, depth = frame.f_back, depth + 1
    warnings.warn(text, UserWarning, stacklevel=outermost + 2)

"""Checks of arguments that all floors share, and warnings that point at the caller."""

import math
import sys
import warnings
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def is_concrete(*values: Any) -> bool:
    """Whether no leaf of ``values`` is traced, nor divided over several processes, of which each holds a part only.

    What every check of numbers asks first: the others cannot be looked at while Python runs.

    Args:
        *values: pytrees.

    Example:
        >>> is_concrete(1.0, {"a": jax.numpy.ones(2)})
        True
        >>> jax.jit(lambda x: 0 if is_concrete(x) else 1)(1.0)
        Array(1, dtype=int32, weak_type=True)
    """
    return all(_held(leaf) for leaf in jax.tree.leaves(values))


def _held(leaf: Any) -> bool:
    if isinstance(leaf, jax.core.Tracer):
        return False
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def check_numbers(low: float = -math.inf, high: float = math.inf, /, *, ends: str = "[]", **values: Any) -> None:
    """Raise `ValueError` unless every value is None, traced, or finite and between the ends throughout.

    Args:
        low: left end.
        high: right end.
        ends: whether the ends themselves are allowed, as brackets: ``"[]"``, ``"(]"``, ``"[)"`` or ``"()"``.
        **values: numbers or arrays under the names of their arguments.

    Example:
        >>> check_numbers(0, ridge=0.0, tol=None)
        >>> check_numbers(0, 1, ends="()", level=1.0)
        Traceback (most recent call last):
        ValueError: level is 1.0; expected a number in (0, 1)
        >>> check_numbers(0, ends="(]", rho=[1.0, 0.0])
        Traceback (most recent call last):
        ValueError: rho is [1.0, 0.0]; expected finite numbers > 0
    """
    for name, value in values.items():
        if value is None or not is_concrete(value):
            continue
        numbers = np.asarray(value, float)
        above = numbers >= low if ends[0] == "[" else numbers > low
        below = numbers <= high if ends[1] == "]" else numbers < high
        if not np.all(np.isfinite(numbers) & above & below):
            raise ValueError(f"{name} is {value}; expected {interval(low, high, ends, many=numbers.ndim > 0)}")


def interval(low: float, high: float = math.inf, ends: str = "[]", *, many: bool = False) -> str:
    """What `check_numbers` expects, in words.

    Args:
        low: left end.
        high: right end.
        ends: as there.
        many: whether of several numbers.

    Returns:
        The words.

    Example:
        >>> interval(0, ends="()"), interval(0, 1, many=True)
        ('a finite number > 0', 'numbers in [0, 1]')
    """
    if high < math.inf:
        return f"{'numbers' if many else 'a number'} in {ends[0]}{low:g}, {high:g}{ends[1]}"
    bound = "" if low == -math.inf else f" {'>=' if ends[0] == '[' else '>'} {low:g}"
    return f"{'finite numbers' if many else 'a finite number'}{bound}"


def check_integers(low: int, /, **values: Any) -> None:
    """Raise unless every value is None or an integer and at least ``low``: `TypeError` or `ValueError`.

    Args:
        low: the bound.
        **values: integers under the names of their arguments.

    Example:
        >>> check_integers(0, max_iter=10)
        >>> check_integers(1, steps=0)
        Traceback (most recent call last):
        ValueError: steps is 0; expected an integer >= 1
    """
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} is {value!r}; expected an integer, which is static")
        if value < low:
            raise ValueError(f"{name} is {value}; expected an integer >= {low}")


def finite(name: str, value: Any) -> Any:
    """The array, known to be finite.

    Args:
        name: of the argument, for the message.
        value: the array.

    Returns:
        The array; under a trace it carries an `equinox.error_if`.

    Raises:
        ValueError: a number that is not finite.

    Example:
        >>> finite("W", jnp.array([1.0, jnp.nan]))
        Traceback (most recent call last):
        ValueError: W holds entries that are not finite; expected finite ones
    """
    bad = _not_finite(value)
    message = f"{name} holds entries that are not finite; expected finite ones"
    if not is_concrete(bad):
        return eqx.error_if(value, bad, message)
    if bad:
        raise ValueError(message)
    return value


@partial(jax.jit, inline=True)
def _not_finite(value: Any) -> Any:
    return ~jnp.all(jnp.isfinite(value))


def check_choice(name: str, value: Any, choices: tuple[str | None, ...]) -> None:
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

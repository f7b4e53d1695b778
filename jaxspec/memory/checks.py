"""Checks of arguments that several modules of this package share."""

import numpy as np
from numpy.typing import ArrayLike

from jaxspec.checks import check_numbers

MODELS = ("original", "decoupled")
EMBEDDINGS = ("gaussian", "sphere")


def check_values(name: str, value: ArrayLike, *, minimum: float = -np.inf) -> np.ndarray:
    """Float64 array of finite numbers that are at least ``minimum``.

    Args:
        name: of the argument, for the message.
        value: what the caller gave.
        minimum: smallest accepted number.

    Returns:
        The array.

    Raises:
        ValueError: a number that is not finite or too small.
    """
    check_numbers(minimum, **{name: value})
    return np.asarray(value, float)

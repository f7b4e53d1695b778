"""Checks of arguments, where they are known."""

from typing import Any

import numpy as np

from jaxspec.checks import check_numbers, is_concrete


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
    check_numbers(0, weight_decay=weight_decay)
    if not is_concrete(eta, weight_decay) or np.shape(eta) != np.shape(weight_decay) != () != np.shape(eta):
        return  # schedules of two lengths: refused where the number of updates is known
    if np.any(np.asarray(eta) * np.asarray(weight_decay) >= 1):
        raise ValueError(f"weight_decay is {weight_decay}; expected eta * weight_decay < 1 in every update")

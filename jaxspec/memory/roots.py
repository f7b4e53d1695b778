"""Root of an increasing function on the host."""

from collections.abc import Callable


def increasing_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Zero of a continuous increasing function; ``high`` is moved up until the function is not negative there.

    Args:
        function: increasing.
        low: where it is not positive; returned if it is.
        high: first guess of the upper end, > low.

    Returns:
        The root, to relative 1e-13 or absolute 1e-12.
    """
    from scipy.optimize import brentq

    if function(low) >= 0:
        return low
    step = max(high - low, 1e-3)
    while function(high) < 0:
        low, high, step = high, high + step, 2 * step
    return brentq(function, low, high, xtol=1e-12, rtol=1e-13)

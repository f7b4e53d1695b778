"""Is it more than chance? The p-value of a statistic among draws of its null."""

from typing import Any


def upper_p_value(null: Any, observed: Any, slack: Any = 0.0) -> Any:
    """Share of the draws, the observed value among them, that are as large: ``(1 + #{null >= observed}) / (1 + n)``.

    Never below ``1 / (1 + n)``, and valid for any number of draws that are exchangeable with the observed value under
    the null.

    Args:
        null: draws along axis 0, NumPy or JAX. Those that are NaN do not count.
        observed: the statistic, of a shape that broadcasts against a draw.
        slack: how far below ``observed`` a draw still counts as a tie, lost to rounding only.

    Returns:
        p-values, one for every statistic; 1 where ``observed`` is NaN.

    Reference:
        Phipson & Smyth, "Permutation p-values should never be zero" (2010).

    Example:
        >>> import numpy as np
        >>> float(upper_p_value(np.array([0.1, 0.5, 0.2, 0.3]), 0.5))
        0.4
    """
    known = null == null
    large = known & ~(null < observed - slack)
    return (1 + large.sum(axis=0)) / (1 + known.sum(axis=0))

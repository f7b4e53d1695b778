r"""Odd quintics ``p(x) = a x + b x^3 + c x^5`` whose composition sends ``[l, 1]`` to 1: the Newton-Schulz schedules.

``optimal_quintic`` is minimax on one interval; ``ns_schedule`` composes it greedily, which is optimal for the
composition, and can end in cubics (``c = 0``), which cost one matrix product less. Reference: Amsel, Persson, Musco &
Gower, "The Polar Express" (arXiv 2505.16932).
"""

import functools

import numpy as np

from jaxspec.linalg.coefficients.checks import count, inside

Triple = tuple[float, float, float]
Schedule = tuple[Triple, ...]

JORDAN: Schedule = ((3.4445, -4.7750, 2.0315),) * 5
CLASSICAL: Triple = (15 / 8, -10 / 8, 3 / 8)
# Below this relative width of the interval the four exchange points coincide and the linear system is singular.
_NARROW = 1e-6


def optimal_quintic(l: float, u: float) -> Triple:  # noqa: E741 - the interval is [l, u] in every paper
    r"""``argmin over (a, b, c) of max over x in [l, u] of | 1 - a x - b x^3 - c x^5 |``.

    Args:
        l: left end, > 0.
        u: right end, > l.

    Returns:
        ``(a, b, c)``. On an interval narrower than 1e-6 (relative) the classical quintic, scaled by its right end.

    Raises:
        ValueError: ends not finite, not positive or not in order, or an exchange that did not level.

    Reference:
        The Polar Express (arXiv 2505.16932), algorithm 2.

    Example:
        >>> optimal_quintic(1e-3, 1.0)
        (8.470329, -25.108075, 18.629276)
    """
    u = inside("u", u, 0, np.inf)
    return _quintic(inside("l", l, 0, u), u)


@functools.lru_cache(maxsize=4096)
def _quintic(low: float, high: float) -> Triple:
    if 1 - low / high < _NARROW:
        return tuple(float(k / high ** (2 * i + 1)) for i, k in enumerate(CLASSICAL))
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    inner = low + (high - low) * np.array([0.25, 0.75])
    for _ in range(100):
        x = np.array([low, *inner, high])
        a, b, c, error = np.linalg.solve(np.stack([x, x**3, x**5, signs], axis=1), np.ones(4))
        squares = (-3 * b + np.array([-1, 1]) * np.sqrt(max(9 * b**2 - 20 * a * c, 0.0))) / (10 * c)
        moved = np.sqrt(np.maximum(squares, 0.0))
        done = np.abs(moved - inner).max() <= 1e-10 * high
        inner = moved
        if done:
            break
    values = 1 - np.polynomial.Polynomial([0, a, 0, b, 0, c])(np.array([low, *inner, high]))
    if np.ptp(np.abs(values)) > 1e-6 * abs(error) + 1e-13:
        raise ValueError(f"optimal_quintic({low}, {high}): the exchange did not level, errors {values.tolist()}")
    return float(a), float(b), float(c)


def _cubic(low: float, high: float) -> Triple:
    """Minimax ``a x + b x^3``: equal values at both ends, as far below 1 as its maximum lies above."""
    square = low**2 + low * high + high**2  # of sqrt(3) times the place of the maximum
    b = 2 / (low * high * (low + high) + 2 * (square / 3) ** 1.5)
    return b * square, -b, 0.0


def ns_schedule(
    l: float,  # noqa: E741
    steps: int,
    *,
    margin: float = 0.0,
    cushion: float | None = None,
    cubics: int = 0,
) -> Schedule:
    r"""``steps`` quintics, each optimal on the interval the previous ones leave: ``l <- p(l)``, ``u <- 2 - p(l)``.

    Args:
        l: smallest singular value that must reach 1, as a fraction of the largest; in (0, 1].
        steps: number of quintics, >= 1.
        margin: divide the argument of all steps but the last by ``1 + margin``, against rounding at the upper end,
            beyond which the quintics grow fast; 0.01 for bfloat16.
        cushion: never design a step for less than ``u / cushion``; 40 for bfloat16, None for no such bound.
        cubics: how many of the steps, the last ones, are the optimal cubic ``(a, b, 0)`` instead.

    Returns:
        ``((a, b, c), ...)``, for the argument ``schedule`` of `jaxspec.linalg.polar`. `ns_error` is its error.

    Raises:
        ValueError: ``l`` outside (0, 1], ``steps`` < 1 or ``cubics`` outside 0, ..., ``steps``.

    Reference:
        The Polar Express (arXiv 2505.16932), theorem 3.1.

    Example:
        >>> len(ns_schedule(1e-3, 6))
        6
    """
    return _checked_schedule(l, steps, margin, cushion, cubics)[0]


def ns_error(
    l: float,  # noqa: E741
    steps: int,
    *,
    margin: float = 0.0,
    cushion: float | None = None,
    cubics: int = 0,
) -> float:
    """Largest ``|1 - p_K(...p_1(x))|`` on ``[l, 1]`` of `ns_schedule`, in exact arithmetic.

    Args:
        l: as in `ns_schedule`.
        steps: as in `ns_schedule`.
        margin: as in `ns_schedule`.
        cushion: as in `ns_schedule`.
        cubics: as in `ns_schedule`.

    Returns:
        The error; 1e-3 means singular values in ``[0.999, 1.001]``.

    Example:
        >>> ns_error(1e-2, 4)
        0.013
    """
    return _checked_schedule(l, steps, margin, cushion, cubics)[1]


def _checked_schedule(low, steps, margin, cushion, cubics):
    low, steps = inside("l", low, 0, 1, "(]"), count("steps", steps)
    if not 0 <= cubics <= steps:
        raise ValueError(f"cubics is {cubics!r}; expected 0 <= cubics <= steps = {steps}")
    return _schedule(low, steps, float(margin), cushion, int(cubics))


@functools.lru_cache(maxsize=512)
def _schedule(low: float, steps: int, margin: float, cushion: float | None, cubics: int) -> tuple[Schedule, float]:
    high, out = 1.0, []
    for step in range(steps):
        optimal = _quintic if step < steps - cubics else _cubic
        triple = optimal(low if cushion is None else max(low, high / cushion), high)
        if margin and step < steps - 1:
            triple = tuple(k / (1 + margin) ** (2 * i + 1) for i, k in enumerate(triple))
        out.append(triple)
        low, high = image(triple, low, high)
    return tuple(out), max(high - 1, 1 - low)


def image(triple: Triple, low: float, high: float) -> tuple[float, float]:
    """The quintic's image of an interval.

    Args:
        triple: coefficients ``(a, b, c)``.
        low: left end of the interval.
        high: right end.

    Returns:
        Smallest and largest value of ``a x + b x^3 + c x^5`` on ``[low, high]``.
    """
    a, b, c = triple
    stationary = np.roots([5 * c, 3 * b, a])
    stationary = np.sqrt(stationary[(np.abs(stationary.imag) < 1e-12) & (stationary.real > 0)].real)
    x = np.array([low, high, *stationary[(stationary > low) & (stationary < high)]])
    values = a * x + b * x**3 + c * x**5
    return float(values.min()), float(values.max())

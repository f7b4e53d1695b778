r"""Compositions of small rational functions: the polar factor (QDWH) and inverse b-th roots.

QDWH composes ``f(x) = x (a + b x^2)/(1 + c x^2)``, the best type-(3,2) function on the current interval. The inverse
root composes ``k (y + B)/(y + C)``, the best type-(1,1) relative approximant of ``y^(-1/b)``.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from jaxspec.linalg.coefficients.checks import count, inside

_MAX_STEPS = 40


class QDWHStep(NamedTuple):
    """``x -> x (a + b x^2) / (1 + c x^2)``, which sends ``[l_before, 1]`` into ``[l, 1]``.

    Attributes:
        a: weight of ``x``.
        b: weight of ``x^3``.
        c: weight in the denominator.
        l: smallest value after the step.
    """

    a: float
    b: float
    c: float
    l: float  # noqa: E741


def qdwh_weights(l: float) -> QDWHStep:  # noqa: E741
    r"""Weights of the dynamically weighted Halley step for singular values in ``[l, 1]``.

        d = (4 (1 - l^2)/l^4)^(1/3),  a = sqrt(1+d) + sqrt(8 - 4d + 8 (2 - l^2)/(l^2 sqrt(1+d)))/2,
        b = (a - 1)^2/4,  c = a + b - 1,  l <- l (a + b l^2)/(1 + c l^2).

    Args:
        l: smallest singular value as a fraction of the largest, in (0, 1].

    Returns:
        ``(a, b, c, l)`` with the new lower bound.

    Raises:
        ValueError: ``l`` outside (0, 1].

    Reference:
        Nakatsukasa, Bai & Gygi, SIAM J. Matrix Anal. Appl. 31 (2010).

    Example:
        >>> 1 - qdwh_weights(0.1).l
        0.13
    """
    l = inside("l", l, 0, 1, "(]")  # noqa: E741
    d = (4 * (1 - l**2) / l**4) ** (1 / 3)
    root = math.sqrt(1 + d)
    a = root + math.sqrt(max(8 - 4 * d + 8 * (2 - l**2) / (l**2 * root), 0.0)) / 2
    b = (a - 1) ** 2 / 4
    c = a + b - 1
    return QDWHStep(a, b, c, min(1.0, l * (a + b * l**2) / (1 + c * l**2)))


@functools.lru_cache(maxsize=512)
def qdwh_schedule(l: float, tol: float) -> tuple[QDWHStep, ...]:  # noqa: E741
    """QDWH steps until ``1 - l <= tol``.

    Args:
        l: smallest singular value as a fraction of the largest, in (0, 1].
        tol: largest deviation of a singular value from 1, in exact arithmetic.

    Returns:
        The steps, at least one.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> [round(1 - step.l, 4) for step in qdwh_schedule(1e-2, 1e-2)]
        [0.4946, 0.0048]
    """
    tol, steps = inside("tol", tol, 0, np.inf), []
    while not steps or (1 - steps[-1].l > tol and len(steps) < _MAX_STEPS):
        steps.append(qdwh_weights(steps[-1].l if steps else l))
    return tuple(steps)


class RootSchedule(NamedTuple):
    """Steps ``y^(-1/b) ~ prod of k (y + B)/(y + C)``, each applied to the ``y`` the previous ones leave.

    Attributes:
        steps: ``(k, B, C)`` of each step.
        errors: ``E`` of each step: the two-sided relative error if the product ended there.
    """

    steps: tuple[tuple[float, float, float], ...]
    errors: tuple[float, ...]


def root_schedule(b: int, l: float, tol: float) -> RootSchedule:  # noqa: E741
    r"""Composite approximation of ``y^(-1/b)`` on ``[l, 1]`` to relative error ``tol``.

    Step by step ``(k, B, C)`` minimises ``max |y^(1/b) k (y + B)/(y + C) - 1|`` on the current interval. All steps but
    the last are divided by ``1 + E``, so that ``y`` stays below 1 and next lies in ``[((1-E)/(1+E))^b, 1]``.

    Args:
        b: the root, an integer >= 2. For b = 2 the composition is optimal among all functions of its type; beyond,
            each step is.
        l: left end of the interval, in (0, 1).
        tol: relative error of the result, > 0.

    Returns:
        The steps and their errors.

    Raises:
        ValueError: an argument outside its range, or an exchange that did not level.

    Reference:
        Gawlik, "Zolotarev iterations for the matrix square root", SIAM J. Matrix Anal. Appl. 40 (2019); Nakatsukasa,
        Bai & Gygi (2010).

    Example:
        >>> root_schedule(2, 1e-3, 1e-3).errors
        (0.187, 0.00041)
    """
    return _root_schedule(count("b", b, 2), inside("l", l, 0, 1), inside("tol", tol, 0, np.inf))


@functools.lru_cache(maxsize=512)
def _root_schedule(root: int, low: float, tol: float) -> RootSchedule:
    steps, errors = [], []
    while not errors or (errors[-1] > tol and len(steps) < _MAX_STEPS):
        if errors:
            scale = 1 + errors[-1]
            steps[-1] = (steps[-1][0] / scale, *steps[-1][1:])
            low = ((1 - errors[-1]) / scale) ** root
        step, error = _best_mobius(root, low)
        steps.append(step)
        errors.append(error)
    return RootSchedule(tuple(steps), tuple(errors))


def _best_mobius(root: int, low: float) -> tuple[tuple[float, float, float], float]:
    """Four-point exchange for ``k (y+B)/(y+C)``; the inner extrema solve a quadratic."""
    if 1 - low < 1e-4:
        # The error is about (1 - low)^3/50, below float64's resolution of the exchange: expand at the midpoint instead.
        return _pade(root, low)
    middle, ratio = math.sqrt(low), low ** (-1 / (2 * root))
    # The optimum of b = 2 has B C = low; B - C > 0 grows with the width of the interval.
    zero, pole = middle * (1 + (ratio - 1) * 0.7), middle / (1 + (ratio - 1) * 0.7)
    gain, error = 1.0, 0.1
    for _ in range(200):
        gap = zero + pole - root * (zero - pole)
        split = math.sqrt(max(gap**2 / 4 - zero * pole, 0.0))
        points = np.clip(np.array([low, -gap / 2 - split, -gap / 2 + split, 1.0]), low, 1)
        old = (gain, zero, pole, error)
        gain, zero, pole, error = _level(root, points, *old)
        if max(abs(math.log(new / was)) for new, was in zip((gain, zero, pole), old, strict=False)) < 1e-13:
            break
    heights = gain * points ** (1 / root) * (points + zero) / (points + pole) - 1
    if np.ptp(np.abs(heights)) > 1e-6 * error + 1e-14 or error <= 0:
        raise ValueError(f"root_schedule: no level exchange for b={root} on [{low}, 1], errors {heights.tolist()}")
    return (gain, zero, pole), float(np.abs(heights).max())


def _level(root, points, gain, zero, pole, error):
    """Damped Newton steps in (log k, log B, log C, E) for ``e(y_i) = (-,+,-,+) E``."""
    signs = np.array([-1.0, 1.0, -1.0, 1.0])
    for _ in range(40):
        value = gain * points ** (1 / root) * (points + zero) / (points + pole)
        jacobian = np.stack(
            [value, value * zero / (points + zero), -value * pole / (points + pole), -signs * np.ones(4)], 1
        )
        step = np.linalg.lstsq(jacobian, signs * error + 1 - value, rcond=None)[0]
        damping = min(1.0, 0.5 / max(np.abs(step[:3]).max(), 1e-300))
        gain, zero, pole = (v * math.exp(damping * s) for v, s in zip((gain, zero, pole), step[:3], strict=True))
        error += damping * step[3]
        if np.abs(step).max() < 1e-14:
            break
    return gain, zero, pole, error


def _pade(root: int, low: float) -> tuple[tuple[float, float, float], float]:
    """Type-(1,1) Pade approximant of ``y^(-1/b)`` at the middle of a narrow interval."""
    centre = (low + 1) / 2
    zero, pole = centre * (1 + 1 / root) / (1 - 1 / root), centre * (1 - 1 / root) / (1 + 1 / root)
    gain = centre ** (-1 / root) * (centre + pole) / (centre + zero)
    ends = np.array([low, 1.0])
    error = np.abs(gain * ends ** (1 / root) * (ends + zero) / (ends + pole) - 1).max()
    return (gain, zero, pole), float(max(error, 1e-16))

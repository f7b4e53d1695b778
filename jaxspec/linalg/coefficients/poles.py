r"""Best rational approximation of a power: ``x^(-c) ~ sum_j w_j / (x + t_j)`` on ``[delta, 1]``, ``0 < c < 1``.

``x^(-c)`` is a Stieltjes function, so its best relative approximant of type (N-1, N) has this form with ``t, w > 0``,
and its relative error takes its largest value ``E`` with alternating signs at 2N + 1 points. The search starts from the
interpolant at Zolotarev's nodes (optimal for c = 1/2) and exchanges points (Remez) until the alternation is level.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from jaxspec.linalg.coefficients.checks import count, inside

_LEVEL = 1e-6  # spread of the 2N + 1 extrema, relative to E, at which the exchange stops
_MAX_EXCHANGES = 60
_MAX_POLES = 60


class PoleSum(NamedTuple):
    """``sum_j w_j / (x + t_j)``.

    Attributes:
        t: N positive shifts, ascending.
        w: N positive weights.
        error: largest relative error on ``[delta, 1]``.
    """

    t: tuple[float, ...]
    w: tuple[float, ...]
    error: float


def power_poles(c: float, delta: float, n: int | None = None, *, tol: float | None = None) -> PoleSum:
    r"""``min over t, w > 0 of max over x in [delta, 1] of | x^c sum_{j<=n} w_j / (x + t_j) - 1 |``.

    The error decays like ``4 sin(pi c) exp(-2 pi^2 n / ln(16 / delta))``.

    Args:
        c: exponent, in (0, 1).
        delta: left end of the interval, in (0, 1).
        n: number of poles; exactly one of ``n`` and ``tol`` is given.
        tol: largest relative error asked for; the least sufficient number of poles is used.

    Returns:
        Shifts, weights and the attained error.

    Raises:
        ValueError: an argument outside its range, or a float64 search that did not reach 2n + 1 level alternations
            (very small ``delta`` with many poles): an approximant that is not optimal is never returned.

    Reference:
        Zolotarev (1877) for c = 1/2; Stahl, Acta Math. 190 (2003), for the rate.

    Example:
        >>> power_poles(0.5, 1e-2, 2).error
        0.01890285
    """
    c, delta = inside("c", c, 0, 1), inside("delta", delta, 0, 1)
    if (n is None) == (tol is None):
        raise ValueError(f"n is {n} and tol is {tol}; expected exactly one of them")
    if n is not None:
        return _poles(c, delta, count("n", n))
    tol = inside("tol", tol, 0, 1)
    rate = 2 * math.pi**2 / math.log(16 / delta)
    first = max(1, math.ceil(math.log(4 * math.sin(math.pi * c) / tol) / rate))
    for poles in range(max(1, first - 1), _MAX_POLES):
        best = _poles(c, delta, poles)
        if best.error <= tol:
            return best
    raise ValueError(f"tol is {tol}; {_MAX_POLES} poles do not reach it for c={c}, delta={delta}")


@functools.lru_cache(maxsize=512)
def _poles(c: float, delta: float, n: int) -> PoleSum:
    for poles in (_by_elimination, _by_qz):
        t, w = _interpolant(c, delta, n, poles)
        for _ in range(_MAX_EXCHANGES):
            points, errors = _extrema(c, delta, t, w)
            if len(points) != 2 * n + 1:
                break
            sizes = np.abs(errors)
            if sizes.max() - sizes.min() < _LEVEL * sizes.max() + 1e-14:
                order = np.argsort(t)
                return PoleSum(tuple(t[order].tolist()), tuple(w[order].tolist()), float(sizes.max()))
            t, w = _level(c, points, np.sign(errors), t, w)
            if not np.all(np.isfinite(t) & np.isfinite(w)):
                break
    raise ValueError(
        f"power_poles(c={c}, delta={delta}, n={n}) is out of reach in float64 ({2 * n + 1} level alternations were not "
        "found); use fewer poles or a larger delta"
    )


def zolotarev_nodes(delta: float, n: int) -> np.ndarray:
    """``dn^2((2i-1) K / (4n))`` with modulus^2 = 1 - delta, i = 1..2n: descending, symmetric under ``x -> delta/x``.

    ``dn`` is summed as ``pi/(2K') sum_k sech(pi (u - 2kK)/(2K'))``: positive terms, so every digit holds as delta -> 0.

    Args:
        delta: left end of the interval ``[delta, 1]``, in (0, 1).
        n: number of poles.

    Returns:
        The nodes, (2n,).
    """
    quarter, co_quarter = _quarter_period(delta), _quarter_period(1 - delta)
    u = (2 * np.arange(1, n + 1) - 1) * quarter / (4 * n)
    shifts = 2 * quarter * np.arange(-20, 21)
    argument = np.minimum(np.abs(np.pi * (u[:, None] - shifts) / (2 * co_quarter)), 700)
    upper = (np.pi / (2 * co_quarter) * (1 / np.cosh(argument)).sum(-1)) ** 2
    return np.concatenate([upper, delta / upper[::-1]])


def _quarter_period(complement: float) -> float:
    """Complete elliptic integral K with modulus^2 = 1 - complement, by the arithmetic-geometric mean."""
    a, b = 1.0, math.sqrt(complement)
    for _ in range(40):
        if abs(a - b) <= 1e-15 * a:
            break
        a, b = (a + b) / 2, math.sqrt(a * b)
    return math.pi / (2 * a)


def _interpolant(c, delta, n, poles):
    """Poles from the Loewner pencil of alternate nodes, balanced by ``node^((1+c)/2)``; weights by least squares."""
    nodes = zolotarev_nodes(delta, n)
    a, b = nodes[0::2, None], nodes[1::2]
    balance = (a * b) ** ((1 + c) / 2)
    loewner = balance * (a**-c - b**-c) / (a - b)
    shifted = balance * (a ** (1 - c) - b ** (1 - c)) / (a - b)
    t = np.clip(-poles(loewner, shifted).real, 1e-3 * delta, None)
    size = t ** (1 - c)  # of a weight; without it the small ones are lost to rounding
    w = size * np.linalg.lstsq(nodes[:, None] ** c * size / (nodes[:, None] + t), np.ones(2 * n), rcond=None)[0]
    return t, np.where(w > 0, w, 1e-3 * size)


def _by_elimination(loewner, shifted):
    """Eigenvalues of the pencil: those near 0 are accurate, as small ``delta`` needs."""
    return np.linalg.eigvals(np.linalg.solve(loewner, shifted))


def _by_qz(loewner, shifted):
    """The same without inverting the ill-conditioned matrix, as many poles need: those near 0 are rough."""
    from scipy.linalg import eigvals

    return eigvals(shifted, loewner)


def relative_error(c: float, x: np.ndarray, t: np.ndarray, w: np.ndarray) -> np.ndarray:
    """``x^c sum_j w_j / (x + t_j) - 1``.

    Args:
        c: exponent.
        x: points, (k,).
        t: shifts, (n,).
        w: weights, (n,).

    Returns:
        Signed error at every point, (k,).
    """
    return x**c * ((1 / (x[:, None] + t)) @ w) - 1


def _extrema(c, delta, t, w):
    """The alternating extrema of the error: one largest value of each sign run, parabola-refined."""
    log_grid = np.linspace(math.log(delta), 0, max(6000, 500 * len(t)))
    error = relative_error(c, np.exp(log_grid), t, w)
    runs = np.split(np.arange(len(error)), np.flatnonzero(np.diff(np.sign(error)) != 0) + 1)
    best = np.array([run[np.argmax(np.abs(error[run]))] for run in runs])
    inner = best[(best > 0) & (best < len(error) - 1)]
    left, mid, right = error[inner - 1], error[inner], error[inner + 1]
    curvature = left - 2 * mid + right
    shift = np.where(curvature != 0, (left - right) / (2 * np.where(curvature != 0, curvature, 1)), 0)
    points = log_grid[best]
    points[(best > 0) & (best < len(error) - 1)] += np.clip(shift, -1, 1) * (log_grid[1] - log_grid[0])
    points = np.exp(points)
    return points, relative_error(c, points, t, w)


def _level(c, points, signs, t, w):
    """Newton's method in (log t, log w, E) for ``error(x_i) = sign_i E``."""
    n = len(t)
    height = np.abs(relative_error(c, points, t, w)).mean()
    for _ in range(30):
        cauchy = points[:, None] ** c / (points[:, None] + t)
        residual = cauchy @ w - 1 - signs * height
        jacobian = np.hstack([-cauchy * w * t / (points[:, None] + t), cauchy * w, -signs[:, None]])
        step = np.linalg.lstsq(jacobian, -residual, rcond=None)[0]
        size = np.abs(step[: 2 * n]).max()
        damping = min(1.0, 1.0 / size) if size > 0 else 1.0
        t, w = t * np.exp(damping * step[:n]), w * np.exp(damping * step[n : 2 * n])
        height += damping * step[-1]
        if size < 1e-12:
            break
    return t, w

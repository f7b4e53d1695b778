r"""Law of the optimal scores of one association against K competitors, by exact quadrature in float64 on the host.

A row of scores ``z ~ N(0, I)`` is projected on ``C = {s : s_1 >= s_j + kappa}``; its correct score becomes ``t*``, the
root of ``t - z_1 = sum_j (z_j + kappa - t)_+`` (``z_1`` if nothing is violated). Since the right side falls in t,

    G_K(t) = P(t* <= t) = P(z_1 + sum_j (z_j + kappa - t)_+ <= t),

which one Fourier inversion of the characteristic function of ``(z + kappa - t)_+`` gives. Reconstructed from the
replica-symmetric theory of perceptrons (Gardner 1988) for the setting of arXiv 2605.10795.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from jaxspec.memory.checks import check_values

FREQUENCY_LIMIT = 9.5  # exp(-w^2/2) and P(max of the scores > 9.5) are below rounding there
LOWER_DEVIATIONS = 9.0
T_NODES = 200
W_NODES = 800
_MAX_NODES = 200_000


def gardner_cost(num_competitors: ArrayLike, kappa: ArrayLike = 0.0) -> np.ndarray | np.float64:
    r"""Mean squared distance of a Gaussian row of scores from the rows with margin kappa.

    ``D(K, kappa) = E dist^2(z, C) = K P(z_j + kappa > t*) + kappa E[t*]``, ``z ~ N(0, I_{K+1})``; the second form is
    what is computed. p associations in d dimensions can all have margin kappa when ``p D(p-1, kappa) < d^2``.

    Args:
        num_competitors: K >= 0; need not be an integer (below 1, D is ``K D(1, kappa)``: an interpolation).
        kappa: margin in units where ``||W||_F = d``; any sign. Broadcast against ``num_competitors``.

    Returns:
        D, float64; absolute error about 1e-11.

    Raises:
        ValueError: negative or non-finite ``num_competitors``, non-finite ``kappa``, or a pair for which the inversion
            would need more than 200000 frequencies.

    Example:
        >>> float(gardner_cost(2))
        0.833333333
    """
    num_competitors = check_values("num_competitors", num_competitors, minimum=0.0)
    return np.vectorize(_cost, otypes=[float])(num_competitors, check_values("kappa", kappa))[()]


def score_cdf(t: ArrayLike, num_competitors: ArrayLike, kappa: ArrayLike = 0.0) -> np.ndarray | np.float64:
    """Distribution function ``G_K(t)`` of the correct score after the projection.

    Args:
        t: scores ``y^T W x`` for ``||W||_F = d`` and keys and values whose entries have variance 1 / d; infinite ones
            are accepted. All arguments are broadcast.
        num_competitors: K >= 0, also real.
        kappa: margin, any sign.

    Returns:
        ``P(t* <= t)``, float64 in [0, 1].

    Raises:
        ValueError: as `gardner_cost`, or NaN in ``t``.

    Example:
        >>> float(score_cdf(0.0, 0))
        0.5
    """
    t = np.asarray(t, float)
    if np.isnan(t).any():
        raise ValueError("t contains NaN; expected numbers")
    num_competitors = check_values("num_competitors", num_competitors, minimum=0.0)
    t, num_competitors, kappa = np.broadcast_arrays(t, num_competitors, check_values("kappa", kappa))
    out = np.empty(t.shape)
    pairs, index = np.unique(np.stack([num_competitors.ravel(), kappa.ravel()], 1), axis=0, return_inverse=True)
    for row, (competitors, margin) in enumerate(pairs):
        here = (index.ravel() == row).reshape(t.shape)
        lo, hi = _support(competitors, margin)
        values = _cdf(np.clip(t[here], lo, hi), competitors, margin, W_NODES)
        out[here] = np.where(t[here] >= hi, 1.0, np.where(t[here] <= lo, 0.0, values))
    return out[()]


def score_moments(
    num_competitors: ArrayLike, kappa: ArrayLike = 0.0
) -> tuple[np.ndarray | np.float64, np.ndarray | np.float64]:
    """Mean and standard deviation of the correct score after the projection, in the units of `score_cdf`.

    Args:
        num_competitors: K >= 0, also real.
        kappa: margin, any sign. Broadcast against ``num_competitors``.

    Returns:
        ``(E[t*], sd[t*])``, float64.

    Raises:
        ValueError: as `gardner_cost`.

    Example:
        >>> [float(value) for value in score_moments(1)]
        [0.282095, 0.818793]
    """
    num_competitors = check_values("num_competitors", num_competitors, minimum=0.0)
    mean, deviation = np.vectorize(_moments, otypes=[float, float])(num_competitors, check_values("kappa", kappa))
    return mean[()], deviation[()]


@lru_cache(maxsize=4096)
def _cost(competitors, kappa, t_nodes=T_NODES, w_nodes=W_NODES):
    from scipy.special import ndtr

    if competitors < 1:
        return competitors * _cost(1.0, kappa, t_nodes, w_nodes) if competitors else 0.0
    t, width, cdf, center, scale = _law(competitors - 1, kappa, t_nodes, w_nodes)
    # A normal law of equal moments is integrated in closed form; the rest vanishes at both ends, as the midpoint rule
    # needs it (the density alone need not: kappa may lie far above hi).
    rest = cdf - ndtr((t - center) / scale)
    below = width * np.sum(np.exp(-((t - kappa) ** 2) / 2) * rest) / np.sqrt(2 * np.pi)
    active = competitors * (below + ndtr((kappa - center) / np.sqrt(1 + scale**2)))
    return max(active + kappa * _moments(competitors, kappa, t_nodes, w_nodes)[0] if kappa else active, 0.0)


def _moments(competitors, kappa, t_nodes=T_NODES, w_nodes=W_NODES):
    return _law(competitors, kappa, t_nodes, w_nodes)[3:]


def _law(competitors, kappa, t_nodes, w_nodes):
    """Points, their distance, the distribution function there, its mean and its deviation."""
    lo, hi = _support(competitors, kappa)
    t, width = _midpoints(lo, hi, t_nodes)
    cdf = _cdf(t, competitors, kappa, w_nodes)
    # Moments of hi - t* rather than of t*: no cancellation in the variance when kappa is large. The integrand of the
    # second has slope -1 at hi, which costs the midpoint rule width^2 / 24.
    first, second = width * np.sum(cdf), 2 * (width * np.sum((hi - t) * cdf) - width**2 / 24)
    return t, width, cdf, hi - first, np.sqrt(second - first**2)


def _midpoints(lo, hi, nodes):
    # The law's deviation falls with K (0.08 at 1e8), and so does hi - lo.
    nodes = max(nodes, int(np.ceil((hi - lo) * nodes / 20)))
    width = (hi - lo) / nodes
    return lo + width * (np.arange(nodes) + 0.5), width


def _sum_moments(t, competitors, kappa):
    """Mean and deviation of ``z_1 + sum_j (z_j + kappa - t)_+``, from the moments of a truncated normal."""
    from scipy.special import ndtr

    b = kappa - t
    density = np.exp(-(b**2) / 2) / np.sqrt(2 * np.pi)
    first = b * ndtr(b) + density
    second = (b**2 + 1) * ndtr(b) + b * density
    return competitors * first, np.sqrt(1 + competitors * max(second - first**2, 0.0))


@lru_cache(maxsize=4096)
def _support(competitors, kappa):
    """Interval outside which ``G_K`` is 0 or 1 to rounding.

    Above: ``t* <= max_m (z_1 + ... + z_(m) + m kappa) / (m + 1) <= max z + kappa K / (K + 1)``. Below: where the sum of
    the module's text lies nine of its own deviations above t; further down its law would alias in the inversion.
    """
    from scipy.optimize import brentq

    hi = FREQUENCY_LIMIT + max(kappa, 0.0) * competitors / (competitors + 1)

    def excess(t):
        mean, deviation = _sum_moments(t, competitors, kappa)
        return mean - t - LOWER_DEVIATIONS * deviation

    bottom = -2 * FREQUENCY_LIMIT
    while excess(bottom) < 0:
        bottom *= 2
    return brentq(excess, bottom, hi, xtol=1e-6), hi


def _cdf(t, competitors, kappa, w_nodes):
    """``1/2 - (1/pi) int_0^9.5 Im[exp(-i w t - w^2/2) cf(w)^K] / w dw`` at the points t, all inside `_support`."""
    lo, hi = _support(competitors, kappa)
    # The midpoint rule repeats the law with period 2 pi / step: half of it must exceed what the law spans.
    span = max(abs(lo), hi, 2 * LOWER_DEVIATIONS * _sum_moments(lo, competitors, kappa)[1])
    nodes = max(w_nodes, int(np.ceil(1.2 * FREQUENCY_LIMIT * span / np.pi)))
    if nodes > _MAX_NODES:
        raise ValueError(f"kappa is {kappa} with {competitors} competitors; expected a pair of smaller size")
    step = FREQUENCY_LIMIT / nodes
    w = step * (np.arange(nodes) + 0.5)
    rows = max(1, 400_000 // nodes)
    parts = np.split(t, range(rows, len(t), rows))
    return np.concatenate([_inverted(part, w, step, competitors, kappa) for part in parts])


def _inverted(t, w, step, competitors, kappa):
    log_cf = np.log1p(_characteristic_minus_one((t - kappa)[:, None], w))
    # The continuous branch of the logarithm, so that real K interpolates between integers.
    exponent = competitors * log_cf.real - w**2 / 2
    phase = competitors * np.unwrap(log_cf.imag, axis=1) - w * t[:, None]
    return np.clip(0.5 - step / np.pi * np.sum(np.exp(exponent) * np.sin(phase) / w, axis=1), 0.0, 1.0)


def _characteristic_minus_one(a, w):
    """``E exp(i w (z - a)_+) - 1 = phi(a) sqrt(pi/2) w_F((w + i a) / sqrt 2) - Phi(-a)``, w_F the Faddeeva function.

    For a < 0 the reflection ``w_F(z) = 2 exp(-z^2) - w_F(-z)`` keeps the two huge factors apart.
    """
    from scipy.special import ndtr, wofz

    side = np.where(a >= 0, 1.0, -1.0)
    faddeeva = side * np.exp(-(a**2) / 2) / 2 * wofz(side * (w + 1j * a) / np.sqrt(2))
    return faddeeva + np.where(a < 0, np.exp(-(w**2) / 2 - 1j * w * np.minimum(a, 0.0)), 0.0) - ndtr(-a)

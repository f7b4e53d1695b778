r"""How many associations a d x d memory holds: capacity, margins, spectra and the Hebbian rule, for finite d and p.

The critical line is ``p D(p-1, kappa) = d^2`` with D of `gardner_cost`. Its limit, ``p log p / d^2 -> 1/2``, is reached
only logarithmically (1.05 at d = 10, 0.74 at d = 1024): compare measurements with `critical_p`, not with 1/2. It holds
for random embeddings with independent competitors, and is a good approximation when competitors are shared.
Everything is float64 on the host and takes numbers or arrays. Setting of arXiv 2605.10795; formulas reconstructed.
"""

from functools import lru_cache

import jax
import numpy as np
from jaxtyping import Array, Key
from numpy.typing import ArrayLike

from jaxspec.checks import check_choice, check_integers
from jaxspec.memory.checks import EMBEDDINGS, check_values
from jaxspec.memory.hebbian_theory import hebbian_accuracy, hebbian_critical_p
from jaxspec.memory.quadrature import gardner_cost, score_cdf, score_moments
from jaxspec.memory.roots import increasing_root

__all__ = [
    "critical_p",
    "gardner_cost",
    "hebbian_accuracy",
    "hebbian_critical_p",
    "kinematic_cost",
    "kyfan_mass",
    "margin",
    "quarter_circle",
    "score_cdf",
    "score_moments",
]

_FINITE_MASS_BELOW = 100


def critical_p(d: ArrayLike, kappa: ArrayLike = 0.0, width: ArrayLike | None = None) -> np.ndarray | np.float64:
    """Number of associations at which margin kappa becomes impossible: the root of ``p D(p-1, kappa) = d^2``.

    A rank bound ``width`` replaces ``d^2`` by ``d^2`` times the share of squared singular values in the top ``width``
    of a d x d Gaussian matrix: its mean over 256 fixed draws below d = 100, `kyfan_mass` from there on. That is an
    upper bound for Gaussian designs (Gordon); that it is attained is a conjecture.

    Args:
        d: dimension of keys and values, >= 1 (an integer where ``width`` is given).
        kappa: margin for ``||W||_F = d``, any sign. Arguments are broadcast.
        width: largest rank of W, an integer >= 1; at least d, or None: no bound.

    Returns:
        The critical p, a real number, >= 1.

    Raises:
        ValueError: ``d < 1``, ``width < 1``, or non-finite numbers.

    Example:
        >>> float(critical_p(20))
        86.8738
    """
    d, kappa = check_values("d", d, minimum=1.0), check_values("kappa", kappa)
    return np.vectorize(_critical_p, otypes=[float])(d, kappa, 1.0 if width is None else _masses(d, width))[()]


def _masses(d, width):
    width = check_values("width", width, minimum=1.0)
    if np.any(width % 1) or np.any(d % 1):
        raise ValueError(f"width is {width} and d is {d}; expected integers")
    return np.vectorize(_top_mass, otypes=[float])(d, width)


def _critical_p(d, kappa, mass):
    target = np.log(d * d * mass)

    def excess(log_p):
        return log_p + np.log(max(gardner_cost(np.exp(log_p) - 1, kappa), 1e-300)) - target

    return np.exp(increasing_root(excess, 1e-12, max(np.log(2.0), target - 1.0)))


def _top_mass(d, width):
    if width >= d:
        return 1.0
    return kyfan_mass(width / d) if d >= _FINITE_MASS_BELOW else _gaussian_masses(int(d))[int(width) - 1]


@lru_cache(maxsize=128)
def _gaussian_masses(d):
    draws = np.random.default_rng(0).standard_normal((256, d, d))
    squares = np.linalg.svd(draws, compute_uv=False) ** 2
    return np.cumsum(squares.mean(0)) / (d * d)


def margin(p: ArrayLike, d: ArrayLike, width: ArrayLike | None = None) -> np.ndarray | np.float64:
    """Largest margin of p associations over ``||W||_F <= d``: the root kappa of ``p D(p-1, kappa) = d^2``, at least 0.

    For keys and values whose entries have variance 1 / d (norm 1), as `sample_associations` draws them: with entries of
    standard deviations ``s_x`` and ``s_y`` margins are ``d s_x s_y`` times as large.

    Args:
        p: number of associations, >= 2.
        d: dimension, >= 1 (an integer where ``width`` is given). Broadcast against ``p``.
        width: largest rank of W, as in `critical_p`: then an upper bound for Gaussian designs. None: no bound.

    Returns:
        kappa >= 0; 0 from `critical_p` on, where W = 0 is the best.

    Raises:
        ValueError: ``p < 2``, ``d < 1``, ``width < 1``, or non-finite numbers.

    Example:
        >>> float(margin(130, 40))
        1.4711
    """
    p, d = check_values("p", p, minimum=2.0), check_values("d", d, minimum=1.0)
    return np.vectorize(_margin, otypes=[float])(p, d, 1.0 if width is None else _masses(d, width))[()]


def _margin(p, d, mass):
    def excess(kappa):
        return p * gardner_cost(p - 1, kappa) - d * d * mass

    if excess(0.0) >= 0:
        return 0.0
    # D(K, kappa) >= D(1, kappa) >= kappa^2 / 4.
    return increasing_root(excess, 0.0, 2 * d / np.sqrt(p))


def kyfan_mass(gamma: ArrayLike) -> np.ndarray | np.float64:
    """Share of squared singular values that the top fraction ``gamma`` of the quarter circle carries.

    ``gamma = (2b - sin 2b) / pi``, ``mass = (2b - sin(4b)/2) / pi``, where the cut is at ``s = 2 cos b``.

    Args:
        gamma: fractions in [0, 1].

    Returns:
        The shares, in [0, 1].

    Raises:
        ValueError: ``gamma`` outside [0, 1].

    Example:
        >>> float(kyfan_mass(0.5))
        0.893731
    """
    gamma = check_values("gamma", gamma, minimum=0.0)
    if np.any(gamma > 1):
        raise ValueError(f"gamma is {gamma}; expected fractions in [0, 1]")
    low, high = np.zeros(gamma.shape), np.full(gamma.shape, np.pi / 2)
    for _ in range(60):
        middle = (low + high) / 2
        below = (2 * middle - np.sin(2 * middle)) / np.pi < gamma
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return ((2 * high - np.sin(4 * high) / 2) / np.pi)[()]


def quarter_circle(s: ArrayLike) -> np.ndarray | np.float64:
    """Predicted density of ``s(W) / sqrt(d)`` for ``||W||_F = d``: ``sqrt(4 - s^2) / pi`` on [0, 2], else 0.

    Args:
        s: points.

    Returns:
        The density.

    Raises:
        ValueError: non-finite points.

    Example:
        >>> float(quarter_circle(0.0))
        0.636620
    """
    s = check_values("s", s)
    return np.where(s < 0, 0.0, np.sqrt(np.maximum(4 - s * s, 0.0)) / np.pi)[()]


def kinematic_cost(
    key: Key[Array, ""], p: int, d: int, embedding: str = "gaussian", num_samples: int = 1000
) -> tuple[float, float]:
    """D with the embedding's own tails: ``E || Proj of g on the cone of the (y_j - y_1) ||^2``, ``g ~ N(0, I_d)``.

    Non-negative least squares on fresh draws of the p - 1 generators and of g. The kinematic formula ``p D_d = d^2`` is
    exact for uniformly random subspaces only: here an approximation, within 3% (gaussian) or 7% above (sphere) of
    `critical_p` at d = 16..48.

    Args:
        key: random key.
        p: number of associations, >= 2.
        d: dimension, >= 1.
        embedding: ``"gaussian"`` or ``"sphere"``.
        num_samples: Monte Carlo draws, >= 2.

    Returns:
        ``(mean, standard error)``.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> import jax
        >>> mean, error = kinematic_cost(jax.random.key(0), 2, 5, num_samples=20)
        >>> bool(abs(mean - 0.5) < 5 * error)
        True
    """
    from scipy.optimize import nnls

    check_choice("embedding", embedding, EMBEDDINGS)
    check_integers(2, p=p, num_samples=num_samples)
    check_integers(1, d=d)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    squares = np.empty(num_samples)
    for sample in range(num_samples):
        y, g = rng.standard_normal((p, d)), rng.standard_normal(d)
        if embedding == "sphere":
            y /= np.linalg.norm(y, axis=1, keepdims=True)
        residual = nnls((y[1:] - y[0]).T, g)[1]
        squares[sample] = g @ g - residual**2  # the projection and its residual are orthogonal
    return float(squares.mean()), float(squares.std(ddof=1) / np.sqrt(num_samples))

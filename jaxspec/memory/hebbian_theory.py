r"""Accuracy of the Hebbian memory ``W = sum_mu y_mu x_mu^T`` at finite p and d, by quadrature.

Scores of a row share its key, its value and the image ``W x_mu`` of its key, hence its noise
``N = sum_rho (x_rho . x_mu) y_rho`` over the other pairs rho. Given those the competitors are independent, so

    accuracy = E P(a competitor is beaten | r, s, N)^(p-1),    r = |x_mu|^2,  s = |y_mu|^2,

an average over five numbers: r, s, the sum A of the squares of the overlaps, and the noise's part along the value and
across it. In the original model ``y_nu`` also stands in the memory: its own term, ``(x_nu . x_mu) |y_nu|^2``, is
averaged over inside P, and the noise is that of the p - 2 others. The limits are those of independent normal scores,
``E_u Phi(d / sqrt p + u)^(p-1)``.

Exact for the decoupled Gaussian model. On the sphere the noise given A is taken as normal; in the original model
competitors count as independent. Against simulations (30 to 4000 draws at each of 72 sizes, d = 16 to 128, and at the
critical sizes) the accuracy was off by at most .010 at d = 16, .008 at d = 24 and .004 from d = 48 on.
Reconstructed for the setting of arXiv 2605.10795.
"""

from functools import reduce

import numpy as np
from numpy.typing import ArrayLike

from jaxspec.checks import check_choice
from jaxspec.memory.checks import EMBEDDINGS, MODELS, check_values
from jaxspec.memory.roots import increasing_root

CRITERIA = ("all", "fraction")


def hebbian_accuracy(
    p: ArrayLike, d: ArrayLike, model: str = "original", embedding: str = "gaussian"
) -> np.ndarray | np.float64:
    """Expected fraction of pairs that the Hebbian memory recalls, by the quadrature of `jaxspec.memory.hebbian_theory`.

    Within .01 of simulations from d = 16 on, .004 from d = 48 on; below d = 16 not compared.

    Args:
        p: number of associations, >= 1. Broadcast against ``d``.
        d: dimension, >= 1.
        model: ``"original"`` (competitors are the other values) or ``"decoupled"`` (fresh competitors).
        embedding: ``"gaussian"`` or ``"sphere"``.

    Returns:
        The fraction, in [0, 1].

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> float(hebbian_accuracy(1, 8))
        1.0
        >>> round(float(hebbian_accuracy(20, 24)), 2)
        0.86
    """
    _check_laws(model, embedding)
    p, d = check_values("p", p, minimum=1.0), check_values("d", d, minimum=1.0)
    return np.vectorize(_accuracy, otypes=[float], excluded=(2, 3))(p, d, model, embedding)[()]


def hebbian_critical_p(
    d: ArrayLike, model: str = "original", embedding: str = "gaussian", criterion: str = "all"
) -> np.ndarray | np.float64:
    """Number of associations at which the Hebbian rule fails half of the time.

    ``criterion="all"``: every pair is recalled with probability 1/2, rows taken as independent, ``accuracy^p = 1/2``
    (simulated at the rounded p, d = 16 to 128: .45 to .59);
    ``p log p / d^2 -> 1/8``. ``criterion="fraction"``: half of the pairs are recalled, ``accuracy = 1/2``;
    ``p log p / d^2 -> 1/2``, the constant of the optimal memory. The two must not be confused.

    Args:
        d: dimension, >= 1.
        model: ``"original"`` or ``"decoupled"``.
        embedding: ``"gaussian"`` or ``"sphere"``.
        criterion: ``"all"`` or ``"fraction"``.

    Returns:
        The critical p, a real number, >= 1.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> round(float(hebbian_critical_p(64, embedding="sphere")))
        105
    """
    _check_laws(model, embedding)
    check_choice("criterion", criterion, CRITERIA)
    d = check_values("d", d, minimum=1.0)
    critical = np.vectorize(_critical_p, otypes=[float], excluded=(1, 2, 3))
    return critical(d, model, embedding, criterion)[()]


def _check_laws(model, embedding):
    check_choice("model", model, MODELS)
    check_choice("embedding", embedding, EMBEDDINGS)


def _accuracy(p, d, model, embedding):
    others = max(p - (2 if model == "original" else 1), 0.0)
    law = _gaussian if embedding == "gaussian" else _sphere
    beaten, weights = law(others, d, model)
    return min(np.sum(weights * np.exp((p - 1) * np.log(np.clip(beaten, 1e-300, 1)))), 1.0)


def _gaussian(others, d, model):
    """P(a competitor is beaten) at nodes, and their weights; scores are divided by ``|x_mu|``."""
    from scipy.special import ndtr

    squares = [_chi_square(d, 6), _chi_square(d, 6), _chi_square(others, 3), _chi_square(d - 1, 2)]
    (r, s, A, across, along), weights = _product(*squares, _normal_trapezoid())
    r, s, A = r / d, s / d, A / d
    q = np.sqrt(r * s) + np.sqrt(A / d) * along  # of W x_mu along y_mu
    size = np.sqrt(q * q + A * across / d)  # |W x_mu|
    if model == "decoupled":
        return ndtr(np.sqrt(d * s) * q / size), weights
    s, q, size = s[:, None], q[:, None], size[:, None]
    overlap, inner = _normal(12)
    overlap = overlap / np.sqrt(d)  # x_nu . x_mu
    # With t the part of y_nu along W x_mu it is beaten when
    #     size t + overlap (|y_nu|^2 - y_nu . y_mu) < q sqrt(s),
    # the bracket being t^2 - t sqrt(s) q / size + 1 - 1 / d and a rest that is taken as normal.
    # Linear in t at the boundary, the inequality is one between normal numbers.
    linear = size - overlap * np.sqrt(s) * q / size
    edge = (q * np.sqrt(s) - overlap) / linear
    bound = q * np.sqrt(s) - overlap * (1 - 1 / d - edge**2)
    spread = np.hypot(linear + 2 * overlap * edge, overlap * np.sqrt(2 + s * (1 - (q / size) ** 2)))
    return np.sum(ndtr(np.sqrt(d) * bound / spread) * inner, axis=1), weights


def _sphere(others, d, model):
    """As `_gaussian`, with keys and values of norm 1; below two dimensions as in two."""
    d = max(d, 2.0)
    share = (d - 1) / (d + 2)  # variance of the square of a coordinate over that of a normal one
    squares = [_chi_square(others / share, 3), _chi_square(d - 1, 2)]
    (A, across, along), weights = _product(*squares, _normal_trapezoid())
    A = A * share / d
    q, rest = 1 + np.sqrt(A / d) * along, np.sqrt(A * across / d)
    if model == "decoupled":
        return _coordinate_cdf(q / np.hypot(q, rest), d), weights
    (a, b), inner = _product(_coordinate(d, 12), _coordinate(d, 12))  # x_nu . x_mu and y_nu . y_mu
    # Beaten when 1 - b times (q - a) exceeds the noise across y_mu times the rest of y_nu, of norm sqrt(1 - b^2).
    bound = (q[:, None] - a) * np.sqrt((1 - b) / np.maximum(1 + b, 1e-100)) / np.maximum(rest[:, None], 1e-100)
    return np.sum(_coordinate_cdf(bound, d - 1) * inner, axis=1), weights


def _coordinate_cdf(t, d):
    """Of one coordinate of a uniform unit vector in d dimensions."""
    from scipy.special import betainc

    return 0.5 + 0.5 * np.sign(t) * betainc(0.5, max((d - 1) / 2, 1e-12), np.minimum(t * t, 1))


def _product(*rules):
    nodes = np.meshgrid(*(rule[0] for rule in rules), indexing="ij")
    weights = reduce(np.multiply.outer, (rule[1] for rule in rules))
    return [grid.ravel() for grid in nodes], weights.ravel()


def _gauss(diagonal, squares):
    """Gauss rule from its Jacobi matrix (Golub and Welsch); weights of sum 1."""
    beside = np.sqrt(squares)
    nodes, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    return nodes, vectors[0] ** 2


def _normal_trapezoid():
    """A finer rule than Gauss's: the accuracy climbs within ``1 / sqrt(2 log p)`` of a standard deviation."""
    u = np.linspace(-7, 7, 57)
    weights = np.exp(-u * u / 2)
    return u, weights / weights.sum()


def _normal(n):
    return _gauss(np.zeros(n), np.arange(1.0, n))


def _chi_square(k, n):
    i = np.arange(n)
    nodes, weights = _gauss(2 * i + k / 2, i[1:] * (i[1:] + k / 2 - 1))
    return 2 * np.maximum(nodes, 0), weights


def _coordinate(d, n):
    """Of one coordinate of a uniform unit vector: a Gegenbauer rule."""
    i = np.arange(2, n)
    return _gauss(np.zeros(n), np.append(1 / d, i * (i + d - 3) / ((2 * i + d - 2) * (2 * i + d - 4))))


def _critical_p(d, model, embedding, criterion):
    def excess(log_p):
        p = np.exp(log_p)
        failures = -np.log(max(_accuracy(p, d, model, embedding), 1e-300))
        return (p if criterion == "all" else 1.0) * failures - np.log(2.0)

    return np.exp(increasing_root(excess, 0.0, np.log(2.0)))

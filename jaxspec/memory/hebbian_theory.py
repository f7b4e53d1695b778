r"""Accuracy of the Hebbian memory ``W = sum_mu y_mu x_mu^T``, in closed form up to one Gaussian average.

For ``||W||_F = d`` the correct score is ``N(d / sqrt p, s_c^2)`` and a competitor ``N(0, s_k^2)``. The variances tend
to 1; at finite d they are ``s_k^2 = 1 + 2 d / p`` (original) or ``1 + d / p`` (decoupled) and ``s_c^2 = 1 + 4 d / p``
(gaussian) or 1 (sphere). Reconstructed for the setting of arXiv 2605.10795.

Leading order only: scores are taken as normal, and the lighter tails of the sphere make its memories better than that
(original model, 60 draws: 0.613 +- 0.007 recalled for 0.504 at p = 60, d = 24; 0.878 +- 0.003 for 0.817 at p = 200,
d = 64).
"""

import numpy as np
from numpy.typing import ArrayLike

from jaxspec.checks import check_choice
from jaxspec.memory.checks import EMBEDDINGS, MODELS, check_values
from jaxspec.memory.roots import increasing_root

CRITERIA = ("all", "fraction")


def hebbian_accuracy(
    p: ArrayLike, d: ArrayLike, model: str = "original", embedding: str = "gaussian"
) -> np.ndarray | np.float64:
    """Expected fraction of recalled pairs, ``E_u Phi((d / sqrt p + s_c u) / s_k)^(p-1)``.

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
    """
    _check_laws(model, embedding)
    p, d = check_values("p", p, minimum=1.0), check_values("d", d, minimum=1.0)
    return np.vectorize(_accuracy, otypes=[float], excluded=(2, 3))(p, d, model, embedding)[()]


def hebbian_critical_p(
    d: ArrayLike, model: str = "original", embedding: str = "gaussian", criterion: str = "all"
) -> np.ndarray | np.float64:
    """Number of associations at which the Hebbian rule fails half of the time.

    ``criterion="all"``: every pair is recalled with probability 1/2, rows taken as independent, ``accuracy^p = 1/2``;
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
        >>> float(hebbian_critical_p(64, embedding="sphere"))
        85.5
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
    from scipy.special import log_ndtr

    competitor = np.sqrt(1 + (2 if model == "original" else 1) * d / p)
    correct = np.sqrt(1 + 4 * d / p) if embedding == "gaussian" else 1.0
    u, step = np.linspace(-10, 10, 4001, retstep=True)  # the trapezoidal rule is spectral: both ends vanish
    inside = np.exp((p - 1) * log_ndtr((d / np.sqrt(p) + correct * u) / competitor) - u * u / 2)
    return min(step * np.sum(inside) / np.sqrt(2 * np.pi), 1.0)


def _critical_p(d, model, embedding, criterion):
    def excess(log_p):
        p = np.exp(log_p)
        failures = -np.log(max(_accuracy(p, d, model, embedding), 1e-300))
        return (p if criterion == "all" else 1.0) * failures - np.log(2.0)

    return np.exp(increasing_root(excess, 0.0, np.log(2.0)))

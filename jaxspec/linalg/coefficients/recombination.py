r"""Powers of the spectrum from the iterates of a Newton-Schulz iteration: ``sum_k alpha_k X_k ~ U f(S) V^T``.

The iterates ``phi_k(s)`` of an odd quintic schedule are sigmoids in ``log s`` with geometric thresholds, so that a
linear combination of them fits ``f(s) = s (s^2 + eps^2)^(-c)``. On square matrices ``X_k X_k^T X_k`` costs nothing
either and joins the basis. The fit is a discrete linear Chebyshev problem, solved by exchange.
"""

import functools
from typing import NamedTuple

import numpy as np

from jaxspec.linalg.coefficients.checks import inside
from jaxspec.linalg.coefficients.newton_schulz import Schedule

_GRID = 3000
_MAX_EXCHANGES, _STARTS = 200, 8


class Recombination(NamedTuple):
    """Weights of the iterates and what they attain.

    Attributes:
        alpha: weights of ``X_0, ..., X_K`` and, with products, of ``X_k X_k^T X_k`` for k = 0..K-1 after them.
        error: largest relative error on ``[l, 1]`` (with eps > 0: on ``(0, 1]``).
        amplification: ``max sum_k |alpha_k phi_k| / f``, the factor by which rounding errors grow.
    """

    alpha: tuple[float, ...]
    error: float
    amplification: float


def recombination(
    c: float,
    l: float,  # noqa: E741
    schedule: Schedule,
    *,
    eps: float = 0.0,
    products: bool = False,
) -> Recombination:
    r"""``argmin over alpha of max over s of | sum_k alpha_k phi_k(s) / f(s) - 1 |``, ``f(s) = s (s^2 + eps^2)^(-c)``.

    Args:
        c: exponent, in [0, 1].
        l: smallest singular value, as a fraction of the largest, that counts when ``eps`` is 0; in (0, 1).
        schedule: the quintics ``(a, b, c)`` of the iteration, at least one.
        eps: floor as a fraction of the largest singular value, >= 0; when positive the fit holds on all of (0, 1].
        products: add ``X_k X_k^T X_k``, k < K, to the basis.

    Returns:
        Weights, error and amplification.

    Raises:
        ValueError: an argument outside its range, a schedule that diverges on [0, 1], or an exchange that did not
            level.

    Reference:
        Powell, "Approximation Theory and Methods" (1981), chapters 8 and 15 (exchange as a dual simplex method).

    Example:
        >>> recombination(2 / 3, 1e-2, ((2.6, -2.3, 0.7),) * 6).error
        0.0064
    """
    c = inside("c", c, 0, 1, "[]")
    l = inside("l", l, 0, 1)  # noqa: E741
    eps = inside("eps", eps, 0, np.inf, "[)")
    schedule = tuple(tuple(float(k) for k in triple) for triple in schedule)
    if not schedule or any(len(triple) != 3 for triple in schedule):
        raise ValueError(f"schedule is {schedule}; expected at least one triple (a, b, c)")
    return _fit(c, l, schedule, eps, bool(products))


@functools.lru_cache(maxsize=512)
def _fit(c: float, low: float, schedule: Schedule, eps: float, products: bool) -> Recombination:
    s = np.geomspace(min(eps / 100, 0.1) if eps > 0 else low, 1, _GRID)
    basis = iterates(s, schedule, products) / target(s, c, eps)[:, None]
    if not np.all(np.isfinite(basis)) or np.abs(basis).max() > 1e8:
        raise ValueError(f"schedule is {schedule}; it diverges on (0, 1]")
    alpha, _ = chebyshev_fit(basis)
    error = float(np.abs(basis @ alpha - 1).max())
    return Recombination(tuple(alpha.tolist()), error, float(np.abs(basis * alpha).sum(1).max()))


def target(s: np.ndarray, c: float, eps: float) -> np.ndarray:
    """``f(s) = s (s^2 + eps^2)^(-c)``.

    Args:
        s: positive singular values, (k,).
        c: exponent.
        eps: floor, in the units of ``s``.

    Returns:
        The values, (k,).
    """
    return s * (s**2 + eps**2) ** -c


def iterates(s: np.ndarray, schedule: Schedule, products: bool) -> np.ndarray:
    """Columns ``phi_0..phi_K`` and, with products, ``phi_0^3..phi_{K-1}^3``; not finite where the schedule diverges.

    Args:
        s: singular values, (k,).
        schedule: K quintics.
        products: append the cubes.

    Returns:
        The basis, (k, K + 1) or (k, 2 K + 1).
    """
    columns, cubes = [s], []
    with np.errstate(over="ignore", invalid="ignore"):
        for a, b, c in schedule:
            x = columns[-1]
            cubes.append(x**3)
            columns.append(a * x + b * x**3 + c * x**5)
    return np.stack(columns + cubes if products else columns, axis=1)


def chebyshev_fit(basis: np.ndarray) -> tuple[np.ndarray, float]:
    """``argmin_alpha max |1 - basis @ alpha|`` over the rows, and the minimum, by exchanging one row at a time.

    The dual weights ``y`` of ``n + 1`` reference rows certify the level: ``sum y_j sign_j row_j = 0``, ``sum y = 1``,
    level ``= sum y_j sign_j``, a lower bound of the minimum for every reference.
    """
    # Orthonormal columns: the iterates are close to each other, the exchange needs well-conditioned references.
    q, r = np.linalg.qr(basis)
    rows, n = q.shape
    if rows <= n + 1:
        raise ValueError(f"{rows} rows are too few for {n} unknowns")
    nodes = np.round((1 - np.cos(np.pi * np.arange(n + 1) / n)) / 2 * (rows - 1)).astype(int)
    draws = np.random.default_rng(0)
    # From a degenerate reference (a weight at rounding level) the exchange can cycle: then start elsewhere.
    for reference in (nodes, *(np.sort(draws.choice(rows, n + 1, replace=False)) for _ in range(_STARTS))):
        solution = _exchange(q, reference)
        if solution is not None:
            return np.linalg.solve(r, solution[:n]), float(solution[n])
    raise ValueError(f"the exchange did not level from {_STARTS + 1} starts of {_MAX_EXCHANGES} steps")


def _exchange(q, reference):
    """The levelled solution and its level from one start, or None."""
    n, reference = q.shape[1], reference.copy()
    dual = np.linalg.svd(q[reference].T)[2][-1]
    signs = np.sign(dual * (np.sign(dual.sum()) or 1))
    if np.any(signs == 0):
        return None
    for _ in range(_MAX_EXCHANGES):
        system = np.column_stack([q[reference], signs])
        try:
            solution = np.linalg.solve(system, np.ones(n + 1))
            residual = 1 - q @ solution[:n]
            entering = int(np.argmax(np.abs(residual)))
            if abs(residual[entering]) <= solution[n] * (1 + 1e-7) + 1e-14:
                return solution
            sign = np.sign(residual[entering])
            right = np.column_stack([np.append(np.zeros(n), 1.0), np.append(sign * q[entering], 1.0)])
            # Recomputed, not updated: drift in the weights would spoil the ratio test.
            weights, change = np.linalg.solve(np.vstack([(signs[:, None] * q[reference]).T, np.ones(n + 1)]), right).T
        except np.linalg.LinAlgError:
            return None
        ratios = np.where(change > 1e-12, np.maximum(weights, 0) / np.where(change > 1e-12, change, 1), np.inf)
        leaving = int(np.argmin(ratios))
        signs[leaving], reference[leaving] = sign, entering
    return None

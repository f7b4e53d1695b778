r"""Exponential rates: fitted to a trajectory, and certified from constants of the objective.

Constants: ``mu`` with ``E_w |G|^2 >= 2 mu (J - J*)``, ``L`` of the gradient in the weighted metric, ``B`` a bound of
the largest singular value of the momentum, ``s_B = (B^2 + eps^2)^(1/2)``.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxspec.checks import check_numbers


class RateFit(NamedTuple):
    """Least squares of ``log(values) = intercept - rate t``.

    Attributes:
        rate: the rate, NaN from fewer than ten points.
        intercept: at ``t = 0``.
        r2: share of the variance that the line explains.
        num_points: points that were fitted.
    """

    rate: float
    intercept: float
    r2: float
    num_points: int


def fit_exponential_rate(time: ArrayLike, values: ArrayLike, *, low: float = 1e-22, high_frac: float = 1e-4) -> RateFit:
    """Fit the exponential tail ``low < values < high_frac values[0]``, on the host in float64.

    Args:
        time: (T,).
        values: (T,), a gap that decays.
        low: values below are rounding.
        high_frac: values above this fraction of the first are transient.

    Returns:
        The fit.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> import numpy as np
        >>> t = np.arange(100.0)
        >>> round(fit_exponential_rate(t, np.exp(-0.3 * t)).rate, 6)
        0.3
    """
    time, values = np.asarray(time, np.float64), np.asarray(values, np.float64)
    if time.shape != values.shape or time.ndim != 1:
        raise ValueError(f"time has shape {time.shape} and values {values.shape}; expected one axis of equal length")
    inside = (values > low) & (values < high_frac * values[0])
    count = int(inside.sum())
    if count < 10:
        return RateFit(np.nan, np.nan, np.nan, count)
    t, logs = time[inside], np.log(values[inside])
    slope, intercept = np.polyfit(t, logs, 1)
    spread = np.sum((logs - logs.mean()) ** 2)
    left = np.sum((logs - slope * t - intercept) ** 2)
    return RateFit(float(-slope), float(intercept), float(1 - left / spread) if spread > 0 else np.nan, count)


def certified_rate(
    mu: ArrayLike,
    lipschitz: ArrayLike,
    eps: ArrayLike,
    gamma: ArrayLike,
    momentum_bound: ArrayLike,
    kappa: ArrayLike | None = None,
) -> Float[Array, ""]:
    """``lam`` of ``E(t) <= E(0) e^(-lam t)``, ``E = J - J* + K + a E_w <G, P>`` and ``J - J* <= 2 E``.

    ``lam = (2/3) min(gamma/2, a mu)`` with ``a = min(gamma / (2 kappa + gamma^2 s_B), 1 / (2 (L s_B)^(1/2)))``.

    Args:
        mu: gradient dominance, > 0.
        lipschitz: ``L``, > 0.
        eps: floor, > 0.
        gamma: friction, > 0.
        momentum_bound: ``B``, >= 0.
        kappa: ``E_w D^2 J[Y, P] <= kappa E_w <P, Y>`` along the path; default ``L s_B / eps``, which always holds.

    Returns:
        The rate, per unit of time.

    Raises:
        ValueError: a constant out of range.

    Example:
        >>> round(float(certified_rate(1.0, 1.0, 1.0, 1.0, 0.0, kappa=1.0)), 4)
        0.2222
    """
    _check_constants(mu, lipschitz, eps, momentum_bound)
    check_numbers(0, ends="()", gamma=gamma)
    size = jnp.hypot(jnp.asarray(momentum_bound, float), eps)
    kappa = lipschitz * size / eps if kappa is None else kappa
    share = jnp.minimum(gamma / (2 * kappa + gamma**2 * size), 1 / (2 * jnp.sqrt(lipschitz * size)))
    return 2 / 3 * jnp.minimum(gamma / 2, share * mu)


def certified_discrete_rate(
    mu: ArrayLike, lipschitz: ArrayLike, eps: ArrayLike, lr: ArrayLike, beta: ArrayLike, momentum_bound: ArrayLike
) -> Float[Array, ""]:
    """Factor of ``Hhat - J*`` that two steps of EMA-Muon are sure to gain, ``1 / (1 + min(c1, c2)/2) <= 1``.

    ``Hhat_k = J(X_k) + lr beta/(1 - beta) E_w Phi(M_k)``, ``c1 = lr th (1 - beta)^2 mu / s_B``,
    ``c2 = th (1 - beta)/beta``, ``th = 1 - L lr / (2 eps)``.

    Args:
        mu: gradient dominance, > 0.
        lipschitz: ``L``, > 0.
        eps: floor of the EMA momentum, > 0.
        lr: step, in ``(0, 2 eps / L]`` for a certificate; beyond, the result is NaN.
        beta: decay, in (0, 1).
        momentum_bound: bound of the EMA momentum, >= 0.

    Returns:
        The factor for two steps.

    Raises:
        ValueError: a constant out of range.

    Example:
        >>> round(float(certified_discrete_rate(1.0, 1.0, 1.0, 1.0, 0.5, 0.0)), 4)
        0.9412
    """
    _check_constants(mu, lipschitz, eps, momentum_bound)
    check_numbers(0, ends="()", lr=lr)
    check_numbers(0, 1, ends="()", beta=beta)
    share = 1 - lipschitz * lr / (2 * eps)
    first = lr * share * (1 - beta) ** 2 * mu / jnp.hypot(jnp.asarray(momentum_bound, float), eps)
    factor = 1 / (1 + jnp.minimum(first, share * (1 - beta) / beta) / 2)
    return jnp.where(share < 0, jnp.nan, factor)


def max_stable_lr(eps: ArrayLike, lipschitz: ArrayLike) -> Float[Array, ""]:
    """``2 eps / L``: up to this step EMA-Muon never raises ``Hhat``, whatever its decay and however nonconvex ``J``.

    Nothing is refused beyond it; diagnostics then show ``Hhat`` rise.

    Args:
        eps: floor of the EMA momentum, > 0.
        lipschitz: ``L`` of the gradient in the weighted metric, > 0, everywhere on the way; `local_lipschitz` measures
            it at one place.

    Returns:
        The step.

    Raises:
        ValueError: a constant out of range.

    Example:
        >>> float(max_stable_lr(0.25, 2.0))
        0.25
    """
    check_numbers(0, ends="()", eps=eps, lipschitz=lipschitz)
    return 2 * jnp.asarray(eps) / lipschitz


def _check_constants(mu, lipschitz, eps, momentum_bound):
    check_numbers(0, ends="()", mu=mu, lipschitz=lipschitz, eps=eps)
    check_numbers(0, momentum_bound=momentum_bound)

"""Stopping rules of the consensus ADMM: frozen objects whose ``measure`` falls to ``tol`` as the iteration converges.

A rule has the attributes ``tol``, ``patience`` and ``certified`` (whether a duality gap must be computed at every
check) and the method ``measure(residuals) -> scalar``; anything with these four works.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

Number = float | Float[Array, ""]


class Residuals(NamedTuple):
    """What a stopping rule may look at, after an iteration.

    Attributes:
        primal: ``||y - A x|| / max(||y||, ||A x||)``, norms over all blocks, 0/0 = 0.
        dual: ``||rho_i A_i (x - x_old)|| / ||W||``.
        change: ``||x - x_old|| / ||x||``.
        gap: ``(primal value - dual value) / |primal value|``; NaN unless the rule is ``certified``.
    """

    primal: Float[Array, ""]
    dual: Float[Array, ""]
    change: Float[Array, ""]
    gap: Float[Array, ""]


class Residual(eqx.Module):
    """Stops when ``max(primal, dual) <= tol``, the relative residuals of the splitting.

    Attributes:
        tol: relative tolerance; None: 1e-5 in float32, 1e-6 in float64.
        patience: near rounding (below 1000 eps), iterations without a fall of the measure by 10% after which the
            run counts as stalled; None: never (static).
    """

    tol: Number | None = None
    patience: int | None = eqx.field(static=True, default=100)
    certified = False

    def measure(self, residuals: Residuals) -> Float[Array, ""]:
        """The larger relative residual."""
        return jnp.maximum(residuals.primal, residuals.dual)


class Gap(eqx.Module):
    """Stops when ``primal - dual <= tol * |primal|``: certified, at the cost of a second factorisation per check.

    Attributes:
        tol: relative tolerance; None: 1e-5 in float32, 1e-6 in float64.
        patience: near rounding (below 1000 eps), iterations without a fall of the gap by 10% after which the
            run counts as stalled; None: never (static).
    """

    tol: Number | None = None
    patience: int | None = eqx.field(static=True, default=100)
    certified = True

    def measure(self, residuals: Residuals) -> Float[Array, ""]:
        """The relative duality gap."""
        return residuals.gap


class RelativeChange(eqx.Module):
    """Stops when ``||x - x_old|| <= tol ||x||``: the habit of the tensor-completion literature, no sign of optimality.

    A standstill does not count: from a small penalty the first thresholds exceed every singular value, y stays 0 and x
    does not move at all for many iterations, while the duals grow.

    Attributes:
        tol: relative tolerance; None: 1e-5 in float32, 1e-6 in float64.
        patience: near rounding (below 1000 eps), iterations without a fall of the change by 10% after which the
            run counts as stalled; None: never (static).
    """

    tol: Number | None = None
    patience: int | None = eqx.field(static=True, default=None)
    certified = False

    def measure(self, residuals: Residuals) -> Float[Array, ""]:
        """The relative change of x; infinity in a standstill."""
        waiting = (residuals.change == 0) & (residuals.primal > self.tol)
        return jnp.where(waiting, jnp.inf, residuals.change)


def default_tol(tol: Any, dtype: Any, single: float = 1e-5, double: float = 1e-6) -> Float[Array, ""]:
    """Relative tolerance as an array.

    Args:
        tol: the tolerance; None: by the dtype.
        dtype: of the computation.
        single: the tolerance in float32.
        double: the tolerance in float64.

    Returns:
        The tolerance in that dtype.
    """
    if tol is None:
        tol = single if jnp.finfo(dtype).bits <= 32 else double
    return jnp.asarray(tol, dtype)


def safe_ratio(numerator: Array, denominator: Array) -> Array:
    """Ratio of two non-negative numbers without a NaN for finite arguments: 0/0 = 0, x/0 = x/tiny.

    Args:
        numerator: any array.
        denominator: >= 0.

    Returns:
        The ratio.
    """
    tiny = jnp.finfo(numerator.dtype).tiny
    return jnp.where(numerator == 0, 0, numerator / jnp.maximum(denominator, tiny))

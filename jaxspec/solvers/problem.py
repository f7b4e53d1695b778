"""What the consensus ADMM solves: ``min_x g(x) + sum_i f_i(A_i x)``, a `Block` for each f_i(A_i x), a `DataTerm` for g.

All callables are static and take their numbers from ``data``, so that a second problem of the same kind compiles
nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped

Number = float | int | Float[Array, ""] | Shaped[Array, ""]


class Block(eqx.Module):
    """One regulariser ``f(A x)`` with ``A^T A`` diagonal; it may stack many groups, y then has a leading group axis.

    Attributes:
        gather: ``(data, x) -> A x``.
        scatter: ``(data, y) -> A^T y``, x-shaped.
        prox: ``(data, v, step) -> (argmin_y f(y) + ||y - v||^2 / (2 step), f at that point)``; ``step`` is a scalar.
        value: ``(data, y) -> f(y)``, accurate (for certificates).
        gauge: ``(data, w) -> least t >= 0 with w in t * subdifferential of f at 0``; None: no certificate.
        count: diagonal of A^T A, broadcastable to x.
        data: arrays that the callables use.
    """

    gather: Callable[[PyTree, Array], Array] = eqx.field(static=True)
    scatter: Callable[[PyTree, Array], Array] = eqx.field(static=True)
    prox: Callable[[PyTree, Array, Array], tuple[Array, Array]] = eqx.field(static=True)
    value: Callable[[PyTree, Array], Array] = eqx.field(static=True)
    gauge: Callable[[PyTree, Array], Array] | None = eqx.field(static=True)
    count: Array
    data: PyTree

    def scaled(self, factor: Number) -> "Block":
        """The block of ``factor * f``, factor > 0 (may be traced)."""
        return Block(
            _Forward(self.gather),
            _Forward(self.scatter),
            _ScaledProx(self.prox),
            _ScaledValue(self.value),
            None if self.gauge is None else _ScaledGauge(self.gauge),
            self.count,
            (self.data, jnp.asarray(factor)),
        )


@dataclass(frozen=True)
class _Forward:
    function: Callable[..., Array]

    def __call__(self, data: PyTree, x: Array) -> Array:
        return self.function(data[0], x)


@dataclass(frozen=True)
class _ScaledProx:
    function: Callable[..., tuple[Array, Array]]

    def __call__(self, data: PyTree, v: Array, step: Array) -> tuple[Array, Array]:
        y, value = self.function(data[0], v, step * data[1])
        return y, value * data[1]


@dataclass(frozen=True)
class _ScaledValue:
    function: Callable[..., Array]

    def __call__(self, data: PyTree, y: Array) -> Array:
        return self.function(data[0], y) * data[1]


@dataclass(frozen=True)
class _ScaledGauge:
    function: Callable[..., Array]

    def __call__(self, data: PyTree, w: Array) -> Array:
        return self.function(data[0], w) / data[1]


class DataTerm(eqx.Module):
    """The data term g of ``g(x) + sum_i f_i(A_i x)``; build one with `DataTerm.exact` or `DataTerm.quadratic`.

    Attributes:
        prox: ``(data, v, d, x) -> argmin_z g(z) + 1/2 sum_j d_j (z_j - v_j)^2``; x is kept where d_j = 0 and g is flat.
        value: ``(data, x) -> g(x)`` at a feasible x.
        dual: ``(data, V) -> min_z g(z) + <V, z>``, taken without the part that ``excess`` names.
        excess: ``(data, V) -> the part of V for which that minimum would be -infinity`` (V where g is flat and
            unbounded).
        data: arrays that the callables use.
    """

    prox: Callable[[PyTree, Array, Array, Array], Array] = eqx.field(static=True)
    value: Callable[[PyTree, Array], Array] = eqx.field(static=True)
    dual: Callable[[PyTree, Array], Array] = eqx.field(static=True)
    excess: Callable[[PyTree, Array], Array] = eqx.field(static=True)
    data: PyTree

    @staticmethod
    def exact(
        target: Float[Array, "*shape"],
        mask: Bool[Array, "*shape"],
        *,
        lower: Number | None = None,
        upper: Number | None = None,
    ) -> "DataTerm":
        """Keeps observed entries: g(x) = 0 if x = target on the mask (and lower <= x <= upper off it), else infinity.

        Args:
            target: observed values; anything where not observed.
            mask: True where observed.
            lower: least value of an unobserved entry; None: unbounded.
            upper: largest value of an unobserved entry; None: unbounded.

        Returns:
            The data term; its dual value is ``<V, target>`` on the mask plus ``sum min(V lower, V upper)`` off it.
        """
        target = jnp.where(mask, target, 0)
        data = (target, mask, _box(lower, upper, target.dtype))
        return DataTerm(_exact_prox, _exact_value, _exact_dual, _exact_excess, data)

    @staticmethod
    def quadratic(
        target: Float[Array, "*shape"],
        weight: Float[Array, "*shape"],
        ridge: Number = 0.0,
        *,
        lower: Number | None = None,
        upper: Number | None = None,
    ) -> "DataTerm":
        """``g(x) = 1/2 sum w (x - target)^2 + ridge/2 ||x||^2`` on the box lower <= x <= upper.

        Args:
            target: observed values; anything where the weight is 0.
            weight: w >= 0, 0 = not observed.
            ridge: >= 0.
            lower: least value of an entry; None: unbounded.
            upper: largest value of an entry; None: unbounded.

        Returns:
            The data term; without a box its dual value is ``1/2 sum w t^2 - 1/2 sum_{D>0} (w t - V)^2 / D``, D = w +
            ridge.
        """
        target = jnp.where(weight > 0, target, 0)
        ridge = jnp.asarray(ridge, target.dtype)
        box = _box(lower, upper, target.dtype)
        data = (target, weight, ridge, box)
        return DataTerm(_quadratic_prox, _quadratic_value, _quadratic_dual, _quadratic_excess, data)


Box = tuple[Array, Array] | None


def _box(lower: Number | None, upper: Number | None, dtype: Any) -> Box:
    if lower is None and upper is None:
        return None
    return (
        jnp.asarray(-jnp.inf if lower is None else lower, dtype),
        jnp.asarray(jnp.inf if upper is None else upper, dtype),
    )


def _clip(x: Array, box: Box) -> Array:
    return x if box is None else jnp.clip(x, *box)


def _linear_minimum(slope: Array, box: Box) -> Array:
    """Minimum over the box of slope * z, entrywise; 0 where it is -infinity."""
    if box is None:
        return jnp.zeros_like(slope)
    bound = jnp.where(slope > 0, box[0], box[1])
    return slope * jnp.where(jnp.isfinite(bound), bound, 0)


def _unbounded(slope: Array, box: Box) -> Array:
    """The slopes for which the minimum over the box of slope * z is -infinity, 0 elsewhere."""
    if box is None:
        return slope
    return jnp.where(jnp.isfinite(jnp.where(slope > 0, box[0], box[1])), 0, slope)


def _exact_prox(data: PyTree, v: Array, d: Array, x: Array) -> Array:
    target, mask, box = data
    return jnp.where(mask, target, _clip(v, box))


def _exact_value(data: PyTree, x: Array) -> Array:
    return jnp.zeros((), x.dtype)


def _exact_dual(data: PyTree, v: Array) -> Array:
    target, mask, box = data
    return jnp.sum(jnp.where(mask, v * target, _linear_minimum(v, box)))


def _exact_excess(data: PyTree, v: Array) -> Array:
    _, mask, box = data
    return jnp.where(mask, 0, _unbounded(v, box))


def _quadratic_prox(data: PyTree, v: Array, d: Array, x: Array) -> Array:
    target, weight, ridge, box = data
    curvature = weight + ridge + d
    minimiser = (weight * target + d * v) / jnp.where(curvature > 0, curvature, 1)
    return jnp.where(curvature > 0, _clip(minimiser, box), x)


def _quadratic_value(data: PyTree, x: Array) -> Array:
    target, weight, ridge, _ = data
    return 0.5 * jnp.sum(weight * (x - target) ** 2 + ridge * x**2)


def _quadratic_dual(data: PyTree, v: Array) -> Array:
    target, weight, ridge, box = data
    curvature = weight + ridge
    strict = curvature > 0
    z = _clip((weight * target - v) / jnp.where(strict, curvature, 1), box)
    at_z = 0.5 * weight * (z - target) ** 2 + 0.5 * ridge * z**2 + v * z
    return jnp.sum(jnp.where(strict, at_z, _linear_minimum(v, box)))


def _quadratic_excess(data: PyTree, v: Array) -> Array:
    _, weight, ridge, box = data
    return jnp.where(weight + ridge > 0, 0, _unbounded(v, box))

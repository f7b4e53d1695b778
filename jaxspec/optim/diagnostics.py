"""How good a direction and its step are: alignment, descent potential, optimal step, all from one Hessian product.

Along ``W - eta D`` with ``eta = tau <g~, D> / <D, H D>`` the second-order change of the loss is exactly
``-Phi (gamma tau - tau^2 / 2)``: the alignment ``gamma = <g, D> / <g~, D>`` compares the full gradient ``g`` with the
mini-batch gradient ``g~`` the direction was made of, the descent potential is ``Phi = <g~, D>^2 / <D, H D>``, the best
step ``eta* = <g, D> / <D, H D>`` and the best decrease ``gamma^2 Phi / 2``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from jaxspec.checks import check_integers

LossFn = Callable[[PyTree], Array]


class Descent(NamedTuple):
    """Local quantities of a direction ``D`` (``W <- W - eta D``): scalars, or a tree of them with ``per_leaf``.

    Attributes:
        alignment: ``<g, D> / <g~, D>``; NaN where ``<g~, D> = 0``.
        potential: ``<g~, D>^2 / <D, H D>``, in units of the loss; infinite without positive curvature.
        optimal_step: ``<g, D> / <D, H D>``; infinite without positive curvature.
        curvature: ``<D, H D>``.
        slope: ``<g, D>``.
        batch_slope: ``<g~, D>``.
        predicted_decrease: of the loss at ``optimal_step``, to second order; infinite without positive curvature.
        negative_curvature: whether ``<D, H D> <= 0``.
    """

    alignment: Any
    potential: Any
    optimal_step: Any
    curvature: Any
    slope: Any
    batch_slope: Any
    predicted_decrease: Any
    negative_curvature: Any


class DiagnosticsState(NamedTuple):
    """State of `with_diagnostics`.

    Attributes:
        inner: state of the wrapped transformation.
        count: number of updates so far.
        descent: of the last recorded update; NaN before the first.
    """

    inner: Any
    count: Int[Array, ""]
    descent: Descent


def descent_quantities(
    loss_fn: LossFn,
    params: PyTree,
    direction: PyTree,
    *,
    grad: PyTree | None = None,
    batch_grad: PyTree | None = None,
    hvp: Callable[[PyTree], PyTree] | None = None,
    per_leaf: bool = False,
) -> Descent:
    """Alignment, descent potential and optimal step of a direction, by one Hessian-vector product of ``loss_fn``.

    Args:
        loss_fn: the full (or large-batch) loss, parameters to scalar.
        params: where.
        direction: ``D``, which is subtracted: minus the updates of optax.
        grad: gradient of ``loss_fn``; default the one that the Hessian product computes anyway.
        batch_grad: mini-batch gradient that ``direction`` was made of; default ``grad``.
        hvp: product ``v -> H v`` with the Hessian of ``loss_fn`` at ``params``; default computed here, with ``grad``.
            ``grad, hvp = jax.linearize(jax.grad(loss_fn), params)`` serves many directions at one point; it keeps in
            memory what they share.
        per_leaf: one `Descent` per parameter, as a tree like ``params`` in every field. The curvature of a leaf is its
            share ``<D_l, (H D)_l>`` of the whole; slopes and curvatures add up to the global ones.

    Returns:
        The quantities, inner products accumulated in float32 or the parameters' own precision if higher.

    Raises:
        ValueError: ``hvp`` without ``grad``.

    Example:
        >>> import jax.numpy as jnp
        >>> loss = lambda w: jnp.sum(jnp.array([1.0, 4.0]) * w**2) / 2
        >>> w = jnp.array([1.0, 1.0])
        >>> found = descent_quantities(loss, w, jnp.array([1.0, 0.0]))
        >>> float(found.optimal_step), float(found.predicted_decrease)
        (1.0, 0.5)
    """
    if hvp is None:
        computed, product = jax.jvp(jax.grad(loss_fn), (params,), (_like(direction, params),))
        grad = computed if grad is None else grad
    elif grad is None:
        raise ValueError("grad is None and hvp is given; expected both, as jax.linearize returns them")
    else:
        product = hvp(_like(direction, params))
    batch_grad = grad if batch_grad is None else batch_grad
    slope, batch_slope, curvature = (_inner(a, direction) for a in (grad, batch_grad, product))
    if not per_leaf:
        return _descent(*(sum(jax.tree.leaves(a)) for a in (slope, batch_slope, curvature)))
    leaves, treedef = jax.tree.flatten(slope)
    columns = zip(leaves, jax.tree.leaves(batch_slope), jax.tree.leaves(curvature), strict=True)
    found = [_descent(*column) for column in columns]
    return Descent(*(treedef.unflatten(field) for field in zip(*found, strict=True)))


def step_optimality(eta: ArrayLike, optimal_step: ArrayLike) -> Float[Array, "..."]:
    """Fraction of the best attainable decrease that a step realises, ``2 r - r^2`` with ``r = eta / eta*``; at most 1.

    Args:
        eta: the step used.
        optimal_step: `Descent.optimal_step`; infinite gives 0.

    Returns:
        1 at the optimal step, 0 at no step and at twice the optimal one, negative where the loss rises.

    Example:
        >>> float(step_optimality(1.0, 2.0))
        0.75
    """
    ratio = jnp.asarray(eta) / jnp.asarray(optimal_step)
    return 2 * ratio - ratio**2


def roughness(optimal_steps: Float[Array, "*batch steps"]) -> Float[Array, "*batch"]:
    """How much the optimal step jumps along a run, ``mean_t |log eta*_{t+1} - log eta*_t|``.

    Args:
        optimal_steps: along the last axis. Pairs with a step that is not positive and finite are left out.

    Returns:
        The mean over the other pairs, NaN if there are none.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(roughness(jnp.array([1.0, 2.0, 1.0, jnp.inf]))), 3)
        0.693
    """
    usable = jnp.isfinite(optimal_steps) & (optimal_steps > 0)
    logs = jnp.log(jnp.where(usable, optimal_steps, 1))
    pairs = usable[..., 1:] & usable[..., :-1]
    jumps = jnp.where(pairs, jnp.abs(jnp.diff(logs, axis=-1)), 0)
    return jnp.sum(jumps, axis=-1) / jnp.sum(pairs, axis=-1)


def with_diagnostics(
    tx: optax.GradientTransformation, *, every: int = 1, per_leaf: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Record the `Descent` of every update of a transformation in its state, ``state.descent``.

    The direction is minus the update, learning rate included, so ``optimal_step`` is the factor by which the learning
    rate should be multiplied and ``step_optimality(1, optimal_step)`` rates the one in use. ``update`` takes the full
    (or large-batch) loss as ``value_fn``, and needs the parameters::

        updates, state = tx.update(grads, state, params, value_fn=lambda p: loss(p, large_batch))

    Args:
        tx: the transformation; wrap the whole chain.
        every: record every so many updates, and keep the last record in between.
        per_leaf: as in `descent_quantities`.

    Returns:
        The transformation with state `DiagnosticsState`. The updates are those of ``tx``.

    Raises:
        ValueError: ``every`` < 1; at ``update``, no parameters.
    """
    check_integers(1, every=every)
    tx = optax.with_extra_args_support(tx)

    def init(params):
        return DiagnosticsState(tx.init(params), jnp.zeros([], jnp.int32), _empty(params, per_leaf))

    def update(updates, state, params=None, *, value_fn, **extra_args):
        if params is None:
            raise ValueError("params is None; with_diagnostics needs the parameters in update")
        new, inner = tx.update(updates, state.inner, params, value_fn=value_fn, **extra_args)

        def record():
            direction = jax.tree.map(jnp.negative, new)
            return descent_quantities(value_fn, params, direction, batch_grad=updates, per_leaf=per_leaf)

        due = state.count % every == 0
        descent = record() if every == 1 else jax.lax.cond(due, record, lambda: state.descent)
        return new, DiagnosticsState(inner, optax.safe_increment(state.count), descent)

    return optax.GradientTransformationExtraArgs(init, update)


@partial(jax.jit, inline=True)
def _descent(slope, batch_slope, curvature):
    flat = curvature <= 0
    positive = jnp.where(flat, 1, curvature)
    return Descent(
        alignment=jnp.where(batch_slope == 0, jnp.nan, slope / jnp.where(batch_slope == 0, 1, batch_slope)),
        potential=jnp.where(flat, jnp.inf, batch_slope**2 / positive),
        optimal_step=jnp.where(flat, jnp.inf, slope / positive),
        curvature=curvature,
        slope=slope,
        batch_slope=batch_slope,
        predicted_decrease=jnp.where(flat, jnp.inf, slope**2 / (2 * positive)),
        negative_curvature=flat,
    )


def _empty(params, per_leaf):
    dtypes = jax.tree.map(_accumulator, params)
    if not per_leaf:
        dtypes = jnp.result_type(*jax.tree.leaves(dtypes))

    def field(value, dtype=None):
        return jax.tree.map(lambda d: jnp.full([], value, d if dtype is None else dtype), dtypes)

    return Descent(*(field(jnp.nan) for _ in range(7)), field(False, bool))


@partial(jax.jit, inline=True)
def _inner(a, b):
    def dot(x, y):
        dtype = _accumulator(x)
        return jnp.vdot(x.astype(dtype), y.astype(dtype), precision=jax.lax.Precision.HIGHEST)

    return jax.tree.map(dot, a, b)


def _accumulator(x):
    return jnp.promote_types(x.dtype, jnp.float32)


def _like(direction, params):
    return jax.tree.map(lambda d, p: d.astype(p.dtype), direction, params)

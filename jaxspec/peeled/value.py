"""The optimal value as a differentiable function of targets, weights and radius, by the envelope theorem."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxspec.checks import check_numbers
from jaxspec.peeled.checks import check_distributions, default_gap, floating, masses_or_uniform
from jaxspec.peeled.logits import Limits, solve_problem
from jaxspec.peeled.loss import cross_entropies
from jaxspec.peeled.problem import LayerPeeledProblem


def optimal_value(
    targets: Any,
    weights: Any,
    radius: Any,
    *,
    tol: Any = None,
    max_iter: int = 20000,
    checked: bool = True,
) -> Float[Array, ""]:
    r"""``L*(P, pi, tau) = min_Z L(Z)`` subject to ``||Z||_* <= tau``, with its derivatives.

    ``dL*/dtau = -||G||_op``, ``dL*/dP_ij = -pi_j Z_ij`` and ``dL*/dpi_j`` = the cross-entropy of column j: nothing is
    differentiated through the iterations, and repeated singular values are harmless. First derivatives only.

    Args:
        targets: P, (V, m).
        weights: pi, (m,); None: 1/m each.
        radius: tau >= 0.
        tol: as in `solve_logits`; the derivatives are accurate to about its square root.
        max_iter: iterations at most (static).
        checked: whether to look at the values.

    Returns:
        The value, in nats.

    Raises:
        ValueError: for an argument out of range.
        RuntimeError: if the iterations ended before the gap reached 1000 times the tolerance (also under jit).

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> float(jax.grad(lambda tau: optimal_value(jnp.eye(3), None, tau))(3.0))
        -0.1543
    """
    targets = floating("targets", targets)
    if checked:
        check_distributions("targets", targets)
        check_numbers(0, radius=radius)
    weights = masses_or_uniform("weights", weights, targets.shape[-1], targets.dtype, checked=checked)
    radius = jnp.asarray(radius, targets.dtype)
    return _value(Limits(max_iter, 10), targets, weights, radius, default_gap(tol, targets.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _value(limits: Limits, targets: Array, weights: Array, radius: Array, tol: Array) -> Array:
    return _forward(limits, targets, weights, radius, tol)[0]


def _forward(limits: Limits, targets: Array, weights: Array, radius: Array, tol: Array) -> tuple[Array, tuple]:
    problem = LayerPeeledProblem(targets, weights, checked=False)
    solution = solve_problem(problem, radius, jnp.zeros_like(targets), tol, limits)
    message = "optimal_value: the iterations ended before the gap reached 1000 times tol"
    value = eqx.error_if(solution.value, solution.gap > 1000 * tol, message)
    return value, (solution.logits, targets, weights, solution.multiplier)


def _backward(limits: Limits, saved: tuple, cotangent: Array) -> tuple:
    logits, targets, weights, multiplier = saved
    by_target = -cotangent * weights * logits
    by_weight = cotangent * cross_entropies(logits, targets)
    return by_target, by_weight, -cotangent * multiplier, jnp.zeros_like(cotangent)


_value.defvjp(_forward, _backward)

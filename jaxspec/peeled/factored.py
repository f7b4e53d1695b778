r"""The factorised program itself, ``min_{W, H} L(W H)`` over balls, not convex: gradient methods, with a certificate.

L-BFGS moves freely on spheres: with a slack coordinate, ``W = r A / sqrt(||A||^2 + a^2)`` covers the whole ball of
radius r, so that budgets that do not bind are no special case. Of the product Z = W H the duality gap of the convex
program is computed: a global optimum is proved, not assumed.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from jaxspec.checks import check_choice, check_integers, check_numbers, is_concrete
from jaxspec.linalg import spectral_norm
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import safe_divide
from jaxspec.peeled.certificate import LEAST_WEIGHT, loss_of, per_vector_gap
from jaxspec.peeled.checks import PATIENCE, check_scale, default_gap, default_grad_tol
from jaxspec.peeled.loss import ScaledLoss
from jaxspec.peeled.problem import FactoredSolution, LayerPeeledProblem
from jaxspec.peeled.projection import project_to_ball, projected
from jaxspec.solvers.loop import CONVERGED, DIVERGED, RUNNING, best_so_far, iterate, stalled_at_rounding

_METHODS = ("lbfgs", "sgd")
# optax's own choices but for the memory: the problems are small and badly scaled near the optimum.
_MEMORY = 20
_LEAST_SLACK = 0.1


class _Static(NamedTuple):
    dim: int
    method: str
    max_iter: int
    check_every: int


def solve_factored(
    key: Key[Array, ""],
    problem: LayerPeeledProblem,
    dim: int,
    *,
    method: str = "lbfgs",
    tol: Any = None,
    grad_tol: Any = None,
    max_iter: int | None = None,
    check_every: int = 10,
    learning_rate: Any = 10.0,
    momentum: Any = 0.9,
    init_scale: Any = None,
    init: tuple[Any, Any] | None = None,
) -> FactoredSolution:
    """A stationary point of ``min L(W H)`` within the budgets, from a random start or a given one.

    Below the rank of the convex solution the gap stays positive: it bounds the loss against all dimensions. Per-vector
    budgets are solved by this function alone, with a gap that weighs rows and columns by their multipliers; at
    ``dim >= V + m`` every problem has its global optimum here. Maps over keys and problems by `jax.vmap`.

    Args:
        key: random key of the start.
        problem: with Frobenius or per-vector budgets.
        dim: inner dimension d >= 1 (static).
        method: ``"lbfgs"``, or ``"sgd"``: projected gradient with momentum, ``optax.chain(optax.sgd(learning_rate,
            momentum), project_to_ball(...))``, ``max_iter`` steps (static). Coordinate-wise methods such as Adam break
            the rotation invariance and stall.
        tol: duality gap, in nats, at which to stop; None: 1e-10 (float64), 1e-6 (float32).
        grad_tol: norm of the gradient along the budgets at which to stop; None: 1e-9 (float64), 1e-5 (float32).
        max_iter: iterations at most (static); None: 2000.
        check_every: iterations between two looks (static).
        learning_rate: of ``"sgd"``; the gradient of a context is proportional to its weight.
        momentum: of ``"sgd"``, in [0, 1).
        init_scale: standard deviation of the start's entries; None: 1 for ``"lbfgs"`` (relative to the slack), 0.3 for
            ``"sgd"``. 0 is a saddle.
        init: factors W, (V, d), and H, (d, m), to start from instead, brought into their balls; the key is not used
            then. Where a column of W and the row of H that meets it are 0, both stay 0: starts padded in this way run
            every dimension up to ``dim`` in one compiled program.

    Returns:
        The point, its certificate and its gradient. ``converged`` says that one of the two tolerances was met;
        ``certified`` that it is a global optimum. L-BFGS that diverges returns its last point of finite value.

    Raises:
        ValueError: for an argument out of range, or factors that do not fit the problem or are all 0.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> problem = LayerPeeledProblem(jnp.eye(3), budget_W=1.0)
        >>> solution = solve_factored(jax.random.key(0), problem, 2)
        >>> (solution.W @ solution.H).round(2)[0]
        Array([ 1. , -0.5, -0.5], dtype=float32)
    """
    check_choice("method", method, _METHODS)
    check_integers(1, dim=dim)
    check_numbers(0, learning_rate=learning_rate, momentum=momentum)
    scale = (1.0 if method == "lbfgs" else 0.3) if init_scale is None else init_scale
    check_scale(scale)
    dtype = problem.targets.dtype
    tolerances = default_gap(tol, dtype), default_grad_tol(grad_tol, dtype)
    scale = jnp.asarray(scale, dtype)
    static = _Static(dim, method, 2000 if max_iter is None else max_iter, check_every)
    start = None if init is None else _checked_start(init, problem, dim)
    if method == "lbfgs":
        return _lbfgs(key, problem, start, scale, tolerances, static)
    rates = jnp.asarray(learning_rate, dtype), jnp.asarray(momentum, dtype)
    return _sgd(key, problem, start, scale, tolerances, rates, static)


def _checked_start(init, problem, dim):
    (V, m), factors = problem.shape, _Factors(*(jnp.asarray(x, problem.targets.dtype) for x in init))
    if factors.W.shape != (V, dim) or factors.H.shape != (dim, m):
        shapes = f"{factors.W.shape} and {factors.H.shape}"
        raise ValueError(f"init has shapes {shapes}; expected {(V, dim)} and {(dim, m)}, for V, m of problem and dim")
    if is_concrete(init):
        values = [np.asarray(x) for x in factors]
        if not all(np.all(np.isfinite(x)) for x in values):
            raise ValueError("init holds entries that are not finite; expected finite ones")
        if not any(np.any(x) for x in values):
            raise ValueError("init is 0; expected factors other than 0, which is a saddle")
    return factors


class _Factors(NamedTuple):
    """Factors in the coordinates of the scaled loss."""

    W: Array
    H: Array


class _Program(eqx.Module):
    problem: LayerPeeledProblem
    loss: ScaledLoss

    @property
    def radii(self) -> _Factors:
        """Of the balls: whole factors, or their rows and columns."""
        problem = self.problem
        V, m = problem.shape if problem.norm == "frobenius" else (1, 1)
        return _Factors(jnp.sqrt(V * problem.budget_W), jnp.sqrt(m * problem.budget_H))

    @property
    def axes(self) -> _Factors:
        """Over which the norms run."""
        return _Factors(None, None) if self.problem.norm == "frobenius" else _Factors(1, 0)

    def value(self, factors: _Factors) -> Array:
        return self.loss(_product(factors))[0]

    def certified(self, factors: _Factors) -> tuple[Array, Array, Array]:
        """Value, gap and norm of the gradient along the budgets."""
        Z = _product(factors)
        value, G = self.loss(Z)
        by_factor = _Factors(matmul(G, factors.H.T), matmul(factors.W.T, G))
        tangents, pulls = zip(*map(tangent, factors, by_factor, self.radii, self.axes), strict=True)
        grad_norm = jnp.sqrt(sum(jnp.sum(t**2) for t in tangents))
        if self.problem.norm == "frobenius":
            return value, jnp.sum(G * Z) + self.problem.radius * spectral_norm(G), grad_norm
        a, b = (_simplex(pull.ravel()) for pull in pulls)
        return value, per_vector_gap(Z, self.problem, a, b), grad_norm


def _product(factors: _Factors) -> Array:
    return matmul(factors.W, factors.H)


def tangent(x: Array, gradient: Array, radius: Array, axis: int | None) -> tuple[Array, Array]:
    """Gradient without what only presses against the ball, and how hard it presses: ``-<gradient, x>``.

    Args:
        x: point of the ball.
        gradient: there.
        radius: of the ball.
        axis: over which its norm runs; None: all.

    Returns:
        The gradient along the ball, and the pressure of each norm.
    """
    square = jnp.sum(x**2, axis=axis, keepdims=True)
    pull = -jnp.sum(gradient * x, axis=axis, keepdims=True)
    on_boundary = square >= radius**2 * (1 - 1e-6)
    multiplier = jnp.where(on_boundary & (pull > 0), pull / jnp.where(square > 0, square, 1), 0)
    return gradient + multiplier * x, pull


def _simplex(pulls: Array) -> Array:
    """Multipliers as weights: clipped from below, sum 1; equal where all of them vanish."""
    largest = jnp.max(pulls)
    shares = safe_divide(pulls, largest, 1)
    clipped = jnp.maximum(shares / jnp.sum(jnp.maximum(shares, 0)), LEAST_WEIGHT)
    return clipped / jnp.sum(clipped)


class _Lifted(NamedTuple):
    """A point of a ball as part of a unit vector: entries, and one slack for each norm."""

    entries: _Factors
    slack: _Factors


def _lowered(program: _Program, point: _Lifted) -> _Factors:
    def lower(x: Array, slack: Array, radius: Array, axis: int | None) -> Array:
        return radius * x / jnp.sqrt(jnp.sum(x**2, axis=axis, keepdims=True) + slack**2)

    return _Factors(*map(lower, point.entries, point.slack, program.radii, program.axes))


def _program(problem: LayerPeeledProblem) -> _Program:
    return _Program(problem, loss_of(problem))


def _random(key: Array, problem: LayerPeeledProblem, dim: int, scale: Array) -> _Factors:
    (V, m), dtype = problem.shape, problem.targets.dtype
    keys = jax.random.split(key)
    W = scale * jax.random.normal(keys[0], (V, dim), dtype)
    return _Factors(W, scale * jax.random.normal(keys[1], (dim, m), dtype))


def _given(program: _Program, start: _Factors) -> _Factors:
    """A caller's factors in the coordinates of the scaled loss, inside their balls."""
    inside = start._replace(H=start.H * program.loss.scale)
    return _Factors(*map(projected, inside, program.radii, program.axes))


def _lifted(program: _Program, start: _Factors) -> _Lifted:
    """The point of a ball with the entries of ``start``; on the sphere the slack is small, as at 0 it would stay 0."""

    def slack(x: Array, radius: Array, axis: int | None) -> Array:
        inside = 1 - jnp.sum((x / radius) ** 2, axis=axis, keepdims=True)
        return jnp.sqrt(jnp.maximum(inside, _LEAST_SLACK**2))

    radii = _Factors(*(jnp.where(r > 0, r, 1) for r in program.radii))
    entries = _Factors(*(x / r for x, r in zip(start, radii, strict=True)))
    return _Lifted(entries, _Factors(*map(slack, start, radii, program.axes)))


class _State(NamedTuple):
    point: _Lifted
    finite: _Lifted  # the last point that is, and its value too
    optimiser: Any
    iter: Array
    status: Array
    best: Array  # gap that a stall is judged by
    best_iter: Array


@eqx.filter_jit
def _lbfgs(
    key: Array,
    problem: LayerPeeledProblem,
    start: _Factors | None,
    init_scale: Array,
    tolerances: tuple[Array, Array],
    static: _Static,
) -> FactoredSolution:
    program = _program(problem)
    if start is None:
        entries = _random(key, problem, static.dim, init_scale)
        shape = [jnp.sum(x, axis=axis, keepdims=True) for x, axis in zip(entries, program.axes, strict=True)]
        point = _Lifted(entries, _Factors(*(jnp.ones_like(x) for x in shape)))
    else:
        point = _lifted(program, _given(program, start))

    def objective(point: _Lifted) -> Array:
        return program.value(_lowered(program, point))

    def last_finite(state: _State, value: Array) -> _Lifted:
        # The line search may hand over the value of another point, and a norm that overflows lowers a point to 0.
        squares = [jnp.sum(x**2) for x in jax.tree.leaves(state.point)]
        known = [value, *squares, *_lowered(program, state.point)]
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in known]))
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), state.point, state.finite)

    optimiser = optax.lbfgs(memory_size=_MEMORY)
    value_and_grad = optax.value_and_grad_from_state(objective)

    def step(state: _State) -> _State:
        value, grad = value_and_grad(state.point, state=state.optimiser)
        updates, memory = optimiser.update(
            grad, state.optimiser, state.point, value=value, grad=grad, value_fn=objective
        )
        point = optax.apply_updates(state.point, updates)
        finite = last_finite(state, value)
        return state._replace(point=point, finite=finite, optimiser=memory, iter=state.iter + 1)

    def test(state: _State) -> _State:
        value, gap, grad_norm = program.certified(_lowered(program, state.point))
        done = (gap <= tolerances[0]) | (grad_norm <= tolerances[1])
        status = jnp.where(jnp.isfinite(value), jnp.where(done, CONVERGED, RUNNING), DIVERGED).astype(jnp.int32)
        best, best_iter = best_so_far(gap, state.iter, state.best, state.best_iter)
        status = stalled_at_rounding(status, gap, state.iter - best_iter >= PATIENCE)
        finite = last_finite(state, value)
        return state._replace(finite=finite, status=status, best=best, best_iter=best_iter)

    zero, infinity = jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf, problem.targets.dtype)
    first = _State(point, point, optimiser.init(point), zero, zero, infinity, zero)
    last = iterate(step, test, first, max_iter=static.max_iter, check_every=static.check_every)
    return _finished(program, _lowered(program, last.finite), tolerances, last.iter)


@eqx.filter_jit
def _sgd(
    key: Array,
    problem: LayerPeeledProblem,
    start: _Factors | None,
    init_scale: Array,
    tolerances: tuple[Array, Array],
    rates: tuple[Array, Array],
    static: _Static,
) -> FactoredSolution:
    program = _program(problem)
    axes = None if program.axes.W is None else program.axes
    optimiser = optax.chain(optax.sgd(*rates), project_to_ball(program.radii, axis=axes))
    if start is None:
        start = _Factors(*map(projected, _random(key, problem, static.dim, init_scale), program.radii, program.axes))
    else:
        start = _given(program, start)

    def step(carry: tuple[_Factors, Any], _: None) -> tuple[tuple[_Factors, Any], None]:
        factors, state = carry
        updates, state = optimiser.update(jax.grad(program.value)(factors), state, factors)
        return (optax.apply_updates(factors, updates), state), None

    (factors, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), length=static.max_iter)
    return _finished(program, factors, tolerances, jnp.asarray(static.max_iter, jnp.int32))


def _finished(
    program: _Program, factors: _Factors, tolerances: tuple[Array, Array], iterations: Array
) -> FactoredSolution:
    value, gap, grad_norm = program.certified(factors)
    certified, stationary = gap <= tolerances[0], grad_norm <= tolerances[1]
    scale = program.loss.scale
    H = safe_divide(factors.H, scale)
    converged = certified | stationary
    return FactoredSolution(factors.W, H, value, gap, grad_norm, iterations, converged, certified, stationary)

r"""Closed form for exchangeable tokens: groups with one orbit on pairs of tokens.

Then ``Z Z^T = sigma^2 (I - J/V)`` with ``sigma = tau / (V - 1)``: the nuclear norm is ``sqrt(V - 1) ||Z||_F``, contexts
decouple, and with one number mu > 0

    softmax(z_j) + c_j z_j = p_j,   c_j = mu / pi_j,   sum_j ||z_j||^2 = tau^2 / (V - 1).

The rows of W are a simplex equiangular tight frame. With ``y_i = log(q_i / c)``, q = softmax(z), the equation is
``exp(y_i) + y_i = p_i / c - s - log c``: Wright's omega function is ``exp(y)``.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxspec.checks import is_concrete
from jaxspec.peeled.actions import PermutationAction, is_transitive, pair_orbit_count
from jaxspec.peeled.averages import check_orbit_sizes
from jaxspec.peeled.checks import default_gap
from jaxspec.peeled.loss import loss_and_gradient, unbounded_logits
from jaxspec.peeled.orbit_solver import OrbitProgram, orbit_program
from jaxspec.peeled.problem import PeeledSolution

# Newton steps: for omega, for s at given mu (which starts at the s before), for log mu.
_OMEGA_STEPS = 6
_INNER_STEPS = 8
_OUTER_STEPS = 40


def solve_exchangeable(
    representatives: Any,
    orbit_mass: Any,
    orbit_size: Any,
    budget_W: Any,
    budget_H: Any = None,
    *,
    action: PermutationAction | None = None,
    assume: bool = False,
    tol: Any = None,
    checked: bool = True,
) -> PeeledSolution:
    """The optimum of `solve_logits` for orbits under a group with one orbit on unordered pairs of tokens.

    Two nested scalar roots, no factorisation, ``O(R V)``: 2-transitive groups (all permutations, affine maps,
    PSL(2, q), the Fano plane) and 2-homogeneous ones. The value is a lower bound for the factorised program of any
    dimension.

    Args:
        representatives: one target column for each context orbit, (V, R).
        orbit_mass: weight of each whole orbit, (R,), sum 1; None: in proportion to the sizes.
        orbit_size: contexts in each orbit, (R,) integers; see `solve_orbits`.
        budget_W: E_W >= 0.
        budget_H: E_H >= 0; None: E_W.
        action: the group's action on the tokens, to check; None only with ``assume``.
        assume: take it on trust that the orbits are those of such a group.
        tol: duality gap, in nats, below which ``converged`` is True; None: 1e-10 (float64), 1e-6 (float32).
        checked: whether to look at the values.

    Returns:
        The solution, ``logits`` the representatives' columns; ``iterations`` counts the outer Newton steps.

    Raises:
        ValueError: no action, one with several orbits on pairs (their number is named), or an argument out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> one_hot = jnp.array([[1.0], [0.0], [0.0]])
        >>> solution = solve_exchangeable(one_hot, None, [3], 1.0, action=PermutationAction.symmetric(3))
        >>> solution.logits[:, 0].round(3)
        Array([ 1. , -0.5, -0.5], dtype=float32)
    """
    program = orbit_program(representatives, orbit_mass, orbit_size, budget_W, budget_H, checked=checked)
    V = program.targets.shape[0]
    if action is None and not assume:
        raise ValueError("action is None; expected a PermutationAction, or assume=True")
    if action is not None:
        if action.degree != V:
            raise ValueError(f"representatives has {V} rows; expected {action.degree}, the degree of the action")
        pairs = pair_orbit_count(action)
        if not is_transitive(action) or pairs > 1:
            raise ValueError(f"action has {pairs} orbits on unordered pairs of tokens; expected 1")
        if checked and is_concrete(program.targets, program.size):
            check_orbit_sizes(program.targets, action, np.asarray(orbit_size))
    return _solve(program, default_gap(tol, program.targets.dtype))


@eqx.filter_jit
def _solve(program: OrbitProgram, tol: Array) -> PeeledSolution:
    targets, mass, size, radius = program.targets, program.mass, program.size, program.radius
    V = targets.shape[0]
    others = max(V - 1, 1)
    free, exists = unbounded_logits(targets, mass)
    norm = jnp.where(exists, jnp.sqrt(others * _square(free, size)), jnp.inf)
    active = ~(norm <= radius)
    columns = _columns(targets, mass / size, size, jnp.where(active & (radius > 0), radius, 1) ** 2 / others)
    columns = jnp.where(active, jnp.where(radius > 0, columns, 0), free)
    value, gradient = loss_and_gradient(columns, targets, mass)
    multiplier = jnp.sqrt(_square(gradient / size, size) / others)
    gap = jnp.sum(gradient * columns) + radius * multiplier
    sigma = jnp.sqrt(_square(columns, size) / others)
    values = jnp.where(jnp.arange(V) < V - 1, sigma, 0)
    floor = 10 * V * jnp.finfo(sigma.dtype).eps * jnp.minimum(radius, 1)
    return PeeledSolution(
        logits=columns,
        value=value,
        gap=gap,
        multiplier=jnp.where(active, multiplier, 0),
        singular_values=values,
        rank=jnp.sum(values > floor).astype(jnp.int32),
        iterations=jnp.asarray(_OUTER_STEPS, jnp.int32),
        converged=gap <= tol,
        active=active,
    )


def _square(columns: Array, size: Array) -> Array:
    """``||Z||_F^2`` of the whole matrix."""
    return jnp.sum(size * jnp.sum(columns**2, axis=0))


def _columns(targets: Array, pi: Array, size: Array, square: Array) -> Float[Array, "V R"]:
    """Columns with ``softmax(z) + c z = p``, ``c = mu / pi``, and ``sum size ||z||^2 = square``."""
    V = targets.shape[0]
    deviation = jnp.sum((targets - 1 / V) ** 2, axis=0)
    weighted = (pi > 0) & (deviation > 0)
    pi = jnp.where(weighted, pi, 1)
    # ||z|| <= ||p - 1/V|| / c: at this mu the norm is too small. log ||Z|| is concave in log mu, with slope -1 here and
    # towards 0 on the way down, so that Newton's steps stay on this side of the root.
    bound = jnp.sum(jnp.where(weighted, size * deviation * pi**2, 0)) / square
    state = jnp.log(jnp.where(bound > 0, bound, 1)) / 2, jnp.full(pi.shape, jnp.log(V), targets.dtype)

    def newton(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        log_mu, s = state
        c = jnp.exp(log_mu) / pi
        z, s = _inner(targets, c, s)
        total, slope = _norm_and_slope(z, targets, c, jnp.where(weighted, size, 0))
        step = jnp.where(total > 0, total * jnp.log(jnp.where(total > 0, total, 1) / square) / -slope, 0)
        # Upwards only to undo rounding: the root is below.
        return log_mu + jnp.where(jnp.isfinite(step), step, 0), s

    log_mu, s = jax.lax.fori_loop(0, _OUTER_STEPS, newton, state)
    z, _ = _inner(targets, jnp.exp(log_mu) / pi, s)
    z = jnp.where(weighted, z, 0)
    # The budget is met exactly, also where log mu cannot be resolved any further.
    total = jnp.sum(size * jnp.sum(z**2, axis=0))
    return z * jnp.sqrt(square / jnp.where(total > 0, total, 1))


def _inner(targets: Array, c: Array, s: Array) -> tuple[Array, Array]:
    """Z and s at given c. ``sum_i z_i``, which must vanish, is concave and increasing in s."""
    V = targets.shape[0]
    x = targets / c - jnp.log(c)

    def logits(s: Array) -> tuple[Array, Array]:
        y = _log_omega(x - s)
        return y, s + jnp.log(c) + y

    def newton(_: Any, s: Array) -> Array:
        y, z = logits(s)
        omega = jnp.exp(y)
        total, slope = jnp.sum(z, axis=0), jnp.sum(omega / (1 + omega), axis=0)
        # Left of the root Q = sum_i q_i = 1 - c total exceeds 1 and may fall like exp(-s): Newton for log Q is faster.
        excess = jnp.maximum(-c * total, 0)
        growth = jnp.where(excess > 1e-6, (1 + excess) * jnp.log1p(excess) / jnp.maximum(excess, 1e-6), 1)
        return jnp.maximum(s - growth * total / slope, jnp.log(V))

    s = jax.lax.fori_loop(0, _INNER_STEPS, newton, s)
    z = logits(s)[1]
    return z - jnp.mean(z, axis=0), s


def _norm_and_slope(z: Array, targets: Array, c: Array, size: Array) -> tuple[Array, Array]:
    """``sum size ||z||^2`` and its derivative by log mu, from ``(diag(q + c) - q q^T) dz = -c z``."""
    q = jax.nn.softmax(z, axis=0)
    total = jnp.sum(size * jnp.sum(z**2, axis=0))
    right = z / (q + c)
    left = q / (q + c)
    # Sherman-Morrison; 1 - sum q^2/(q + c) = sum q c/(q + c), without the cancellation.
    share = jnp.sum(q * right, axis=0) / jnp.sum(left, axis=0)
    dz = -(c * right + left * share)
    return total, 2 * jnp.sum(size * jnp.sum(z * dz, axis=0))


def _log_omega(x: Array) -> Array:
    """Root y of ``exp(y) + y = x``: from above Newton's steps fall monotonically, as the left side is convex."""
    y = jnp.where(x > 1, jnp.log(jnp.maximum(x, 1)), x)
    for _ in range(_OMEGA_STEPS):
        omega = jnp.exp(y)
        y = y - (omega + (y - x)) / (1 + omega)
    return y

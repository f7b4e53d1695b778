r"""Memories of bounded rank, ``W = B A`` with m hidden units: Gauss-Newton on both factors, and upper bounds.

``min_mu,nu M[mu, nu] d / ||W||_F`` is to be large. Feasibility first: ``sum (1 - M)_+^2 / 2`` over (A, B) by Newton-CG
with the Gauss-Newton part of the Hessian, the second-order counterpart of alternating between the two convex problems
in A and in B. Then ``min ||B A||_F^2 / 2`` subject to ``M >= 1`` by the augmented Lagrangian method over the factors.
The program is not convex: a memory that was found certifies what it holds, one that was not found proves nothing. But
every array of multipliers L >= 0 bounds the margin of all memories of rank m from above,

    min M d / ||W||_F <= d <sum L (y_mu - c) x_mu^T, W> / (||W||_F sum L) <= d (s_1^2 + ... + s_m^2)^(1/2) / sum L,

s the singular values of ``G = sum L (y_mu - c) x_mu^T`` (Ky Fan). At a stationary point ``G = W + E`` with E orthogonal
to the row and column spaces of W, so the bound is attained, and W a global optimum, as soon as ``|E| <= s_m(W)``. The
multipliers of the largest margin without a bound on the rank give a second bound; the smaller one is reported.
Setting of arXiv 2605.10795.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxspec.checks import check_integers
from jaxspec.linalg import singular_values, top_svd
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import safe_divide
from jaxspec.memory.associations import Associations
from jaxspec.memory.certificates import FEASIBLE, SOLVED, STATIONARY, checked_problem, in_units, proven_bounds
from jaxspec.memory.hinges import hinges, normalised
from jaxspec.memory.lists import Limits
from jaxspec.memory.margin import max_margin
from jaxspec.memory.pairs import all_pairs
from jaxspec.solvers import augmented_lagrangian, newton_cg

_COLDEST = 60.0  # last inverse temperature of the soft minimum


class TwoLayer(NamedTuple):
    """A memory ``W = B A`` of rank at most m.

    Attributes:
        A: first layer, (m, d).
        B: second layer, (d, m); ``||B A||_F = d``.
        margin: smallest margin, for ``||W||_F = d``: a lower bound of the best one of rank m.
        feasible: margin > 0; false proves nothing.
        upper: no memory of rank m has a larger margin than this.
        optimal: whether margin and upper agree to the tolerance: a certified global optimum.
        multipliers: that prove ``upper``, (p, p).
        iterations: Newton steps, or steps of Adam.
    """

    A: Float[Array, "m d"]
    B: Float[Array, "d m"]
    margin: Float[Array, ""]
    feasible: Bool[Array, ""]
    upper: Float[Array, ""]
    optimal: Bool[Array, ""]
    multipliers: Float[Array, "p p"]
    iterations: Int[Array, ""]


class _Static(NamedTuple):
    """What is compiled in."""

    width: int
    num_starts: int
    limits: Limits


def fit_two_layer(
    key: Key[Array, ""],
    a: Associations,
    width: int,
    *,
    n: Int[Array, ""] | int | None = None,
    gap_tol: Float[Array, ""] | float = 1e-3,
    num_starts: int = 1,
    max_outer: int = 12,
    max_newton: int = 100,
    max_cg: int = 100,
) -> TwoLayer:
    """Memory of rank at most ``width`` with a large margin, by Gauss-Newton steps on both factors.

    Args:
        key: randomness of the starts after the first.
        a: the associations.
        width: hidden units m, >= 1 (static).
        n: how many leading pairs count; traced. None: all.
        gap_tol: stop at ``(upper - margin) / upper <= gap_tol``; traced.
        num_starts: starts to try, the largest margin counts (static). The first is the best approximation of rank m of
            the Hebbian memory, the others that of the Hebbian memory plus Gaussian noise of its own size. The search
            ends early with a certified optimum, or, for ``max_outer=0``, with a positive margin.
        max_outer: steps of the augmented Lagrangian method, which enlarges the margin (static); 0: stop as soon as the
            margin is positive.
        max_newton: Newton steps of each inner problem at most (static).
        max_cg: Hessian products per step at most (static).

    Returns:
        The best memory found.

    Raises:
        ValueError: ``width``, ``num_starts``, ``max_newton`` or ``max_cg`` below 1, a negative ``max_outer`` or
            ``gap_tol``, n out of range, shapes that do not fit, or numbers that are not finite (under jit: margin
            -infinity, bound infinity).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> found = fit_two_layer(jax.random.key(0), Associations(jnp.eye(3), jnp.eye(3)), 2)
        >>> bool(found.feasible), found.A.shape
        (True, (2, 3))
    """
    check_integers(1, width=width, num_starts=num_starts, max_newton=max_newton, max_cg=max_cg)
    check_integers(0, max_outer=max_outer)
    a, n, (gap_tol,) = checked_problem(a, n, gap_tol=gap_tol)
    return _fitted(key, a, n, gap_tol, _Static(width, num_starts, Limits(max_newton, max_cg, max_outer)))


def fit_two_layer_adam(
    a: Associations,
    width: int,
    *,
    n: Int[Array, ""] | int | None = None,
    gap_tol: Float[Array, ""] | float = 1e-3,
    steps: int = 2000,
    learning_rate: Float[Array, ""] | float = 0.05,
) -> TwoLayer:
    """The same by Adam on the soft minimum of the margins, which hardens from 2 to 60; a baseline of `fit_two_layer`.

    Args:
        a: the associations.
        width: hidden units m, >= 1 (static).
        n: how many leading pairs count; traced. None: all.
        gap_tol: of ``optimal``; traced.
        steps: of Adam (static).
        learning_rate: at the start; it falls to zero along a cosine. Traced.

    Returns:
        The best memory on the way.

    Raises:
        ValueError: as `fit_two_layer`, or ``steps < 1``.

    Example:
        >>> import jax.numpy as jnp
        >>> bool(fit_two_layer_adam(Associations(jnp.eye(3), jnp.eye(3)), 2, steps=100).feasible)
        True
    """
    check_integers(1, width=width, steps=steps)
    a, n, (gap_tol, learning_rate) = checked_problem(a, n, gap_tol=gap_tol, learning_rate=learning_rate)
    return _trained(a, n, gap_tol, learning_rate, width, steps)


@partial(jax.jit, static_argnames="static")
def _fitted(key, a, n, gap_tol, static):
    width, num_starts, limits = static
    a, units = in_units(a)
    pairs = all_pairs(a, n)
    d, rank = a.x.shape[1], min(width, a.x.shape[1])
    rule, zero = _hebbian(pairs, n), jnp.zeros_like(pairs.mask, a.x.dtype)
    best = _reported((jnp.zeros((rank, d), a.x.dtype), jnp.zeros((d, rank), a.x.dtype)), zero, pairs, 0)
    best = best._replace(margin=jnp.full_like(best.margin, -jnp.inf))
    if limits.outer > 0:
        proof = max_margin(a, n=n, gap_tol=gap_tol).multipliers
        best = best._replace(upper=_reported((best.A, best.B), proof, pairs, 0).upper, multipliers=proof)

    def attempt(best, index):
        start = _start(key, rule, rank, index)
        return _better(best, _searched(start, pairs, gap_tol, limits))

    def next_start(best, index):
        enough = _closed(best, gap_tol) if limits.outer > 0 else best.margin > 0
        return jax.lax.cond(enough, lambda: best, lambda: attempt(best, index)), None

    best, _ = jax.lax.scan(next_start, best, jnp.arange(num_starts))
    return _in_callers_form(best, width, gap_tol, units)


def _start(key, rule, rank, index):
    """Factors of the Hebbian memory; after the first, of the Hebbian memory with noise of its own size."""
    noise = jax.random.normal(jax.random.fold_in(key, index), rule.shape, rule.dtype)
    size = jnp.where(index > 0, jnp.linalg.norm(rule) / len(rule), 0)
    return _factors(rule + size * noise, rank)


def _searched(start, pairs, gap_tol, limits):
    """A memory with a positive margin, if one is found; then, if asked for, with a larger one."""
    problem = partial(_penalised, pairs=pairs, weight=0, rho=1, shift=jnp.zeros_like(pairs.mask, start[0].dtype))
    judged = partial(_judged, pairs=pairs)
    found = newton_cg(problem, start, max_newton=limits.newton, max_cg=limits.cg, stop=judged)
    first = _reported(found.x, hinges(pairs, _product(found.x)), pairs, found.iterations)
    if limits.outer == 0:
        return first
    none = first._replace(iterations=jnp.zeros_like(found.iterations))
    larger = jax.lax.cond(first.margin > 0, lambda: _enlarged(found.x, pairs, gap_tol, limits), lambda: none)
    return _better(first, larger)


def _hebbian(pairs, n):
    counts = (jnp.arange(len(pairs.x)) < n)[:, None]
    return matmul((counts * pairs.y).T, pairs.x)


def _factors(W, rank):
    """Balanced factors of the best approximation, of norm ``||W||_F = d``."""
    found = top_svd(W, rank)
    size = jnp.sqrt(jnp.sum(found.s**2))
    root = jnp.sqrt(found.s * safe_divide(W.shape[0], size, 1))
    return root[:, None] * found.vt, found.u * root


def _product(x):
    return matmul(x[1], x[0])


def _penalised(x, pairs, weight, rho, shift):
    """Value, gradient and Gauss-Newton product of ``weight/2 ||B A||^2 + rho/2 sum (1 - M + shift)_+^2``."""
    A, B = x
    W = _product(x)
    residual = hinges(pairs, W, 1 + shift)

    def pulled(G):
        return matmul(B.T, G), matmul(G, A.T)

    def hvp(v):
        V = matmul(v[1], A) + matmul(B, v[0])
        return pulled(weight * V + rho * pairs.adjoint(jnp.where(residual > 0, pairs.gaps(V), 0)))

    value = weight / 2 * jnp.sum(W * W) + rho / 2 * jnp.sum(residual**2)
    return value, pulled(weight * W - rho * pairs.adjoint(residual)), hvp


def _judged(x, value, grad, pairs):
    """Feasible, or stationary: the slope along the factors themselves is next to nothing."""
    size = jnp.sqrt(sum(jnp.sum(v * v) for v in x))
    slope = size * jnp.sqrt(sum(jnp.sum(g * g) for g in grad))
    feasible = jnp.min(jnp.where(pairs.mask, pairs.gaps(_product(x)), jnp.inf)) > 0
    return jnp.where(feasible, FEASIBLE, jnp.where(slope <= 1e-2 * value, STATIONARY, 0))


def _enlarged(x, pairs, gap_tol, limits):
    """Augmented Lagrangian method for ``min ||B A||^2 / 2`` subject to ``M >= 1``, from a feasible memory."""
    rank = len(x[0])

    def inner(x, multipliers, rho):
        problem = partial(_penalised, pairs=pairs, weight=1, rho=rho, shift=multipliers / rho)
        found = newton_cg(problem, x, tol=1e-3, max_newton=limits.newton, max_cg=limits.cg)
        return found.x, found.iterations

    def constraints(x):
        return jnp.where(pairs.mask, 1 - pairs.gaps(_product(x)), -jnp.inf)

    def stop(x, multipliers):
        W = _product(x)
        M = jnp.where(pairs.mask, pairs.gaps(W), jnp.inf)
        lower, upper = jnp.min(M) / jnp.linalg.norm(W), _top_norm(pairs.adjoint(multipliers), rank)
        upper = upper / jnp.sum(multipliers)
        slack = jnp.where(multipliers > 0, jnp.abs(1 - M), 0)
        stationary = jnp.maximum(jnp.max(slack), 1 - jnp.min(M)) <= 0.1 * gap_tol
        return jnp.where(upper - lower <= gap_tol * upper, SOLVED, jnp.where(stationary, STATIONARY, 0))

    rho = jnp.sum(_product(x) ** 2) / len(pairs.x)
    zero = jnp.zeros_like(pairs.mask, rho.dtype)
    found = augmented_lagrangian(inner, constraints, x, zero, rho=rho, max_outer=limits.outer, stop=stop)
    return _reported(found.x, found.multipliers, pairs, found.inner_iterations)


def _top_norm(G, rank):
    return jnp.sqrt(jnp.sum(singular_values(G)[:rank] ** 2))


def _reported(x, multipliers, pairs, iterations):
    """A memory with its bounds, in the units of the pairs; ``feasible`` and ``optimal`` are set at the end."""
    W, multipliers = normalised(_product(x), multipliers)
    G = pairs.adjoint(multipliers)
    lower, upper = proven_bounds(pairs, W, multipliers)
    size = jnp.linalg.norm(G)
    share = safe_divide(_top_norm(G, len(x[0])), size, 1)
    root = jnp.sqrt(jnp.linalg.norm(W) / jnp.maximum(jnp.linalg.norm(_product(x)), jnp.finfo(W.dtype).tiny))
    never = jnp.zeros((), bool)
    count = jnp.asarray(iterations, jnp.int32)
    return TwoLayer(root * x[0], root * x[1], lower, never, share * upper, never, multipliers, count)


def _closed(found, gap_tol):
    return found.upper - found.margin <= gap_tol * found.upper


def _better(first, last):
    """The memory with the larger margin, the multipliers with the smaller bound, the iterations of both."""
    larger, tighter = last.margin >= first.margin, last.upper <= first.upper
    A, B, margin = (jnp.where(larger, getattr(last, name), getattr(first, name)) for name in ("A", "B", "margin"))
    upper, multipliers = (
        jnp.where(tighter, getattr(last, name), getattr(first, name)) for name in ("upper", "multipliers")
    )
    never, count = last.feasible, first.iterations + last.iterations
    return TwoLayer(A, B, margin, never, upper, never, multipliers, count)


def _in_callers_form(found, width, gap_tol, units):
    missing = width - len(found.A)  # a width above d buys nothing
    scale = units.x * units.y
    margin = jnp.where(units.sound, scale * found.margin, -jnp.inf)
    return found._replace(
        A=jnp.pad(found.A, ((0, missing), (0, 0))),
        B=jnp.pad(found.B, ((0, 0), (0, missing))),
        margin=margin,
        upper=jnp.where(units.sound, scale * found.upper, jnp.inf),
        feasible=margin > 0,
        optimal=_closed(found, gap_tol) & units.sound,
    )


@partial(jax.jit, static_argnums=(4, 5))
def _trained(a, n, gap_tol, learning_rate, width, steps):
    a, units = in_units(a)
    pairs = all_pairs(a, n)
    optimizer = optax.adam(optax.cosine_decay_schedule(1.0, steps))
    tiny = jnp.finfo(a.x.dtype).tiny  # W = 0 where the keys are

    def loss(x, inverse_temperature):
        W = _product(x)
        M = jnp.where(pairs.mask, pairs.gaps(W) * len(W) / jnp.sqrt(jnp.sum(W * W) + tiny), jnp.inf)
        return jax.nn.logsumexp(-inverse_temperature * M) / inverse_temperature, M

    def step(carry, inverse_temperature):
        x, state, best = carry
        (_, M), grad = jax.value_and_grad(loss, has_aux=True)(x, inverse_temperature)
        here = x, jax.nn.softmax(-inverse_temperature * M, axis=(0, 1)), jnp.min(M)
        best = jax.tree.map(partial(jnp.where, here[2] > best[2]), here, best)
        updates, state = optimizer.update(grad, state)
        x = jax.tree.map(lambda v, u: v + learning_rate * u, x, updates)
        return (x, state, best), None

    x = _factors(_hebbian(pairs, n), min(width, a.x.shape[1]))
    best = x, jnp.zeros_like(pairs.mask, a.x.dtype), jnp.asarray(-jnp.inf, a.x.dtype)
    hardening = jnp.geomspace(2.0, _COLDEST, steps, dtype=a.x.dtype)
    (_, _, best), _ = jax.lax.scan(step, (x, optimizer.init(x), best), hardening)
    found = _reported(best[0], best[1], pairs, jnp.asarray(steps, jnp.int32))
    return _in_callers_form(found, width, gap_tol, units)

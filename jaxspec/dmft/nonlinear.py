r"""Infinitely wide nonlinear networks in the muP scaling, trained on P fixed points: one causal sweep, no fixed point.

    ``f_m = w . phi(h^L_m) / (gamma0 N)``,  ``h^{l+1} = W^l phi(h^l) / sqrt N``,  ``h^1 = W^0 x / sqrt D``,
    weights of variance ``s2``, loss ``(1/2P) sum (y - f)^2``, learning rate ``eta gamma0^2 N``.

Each layer is a population of sites, independent given the kernels ``Phi^l = <phi(h^l), phi(h^l)>``,
``G^l = <g^l, g^l>`` and the responses A, B. With ``k_n(s) = eta gamma0 Delta_n(s) / P``,

    ``h^l(t) = chi^l(t) + sum_{s<t} [A^{l-1} + k Phi^{l-1}](t, s) g^l(s)``,
    ``z^l(t) = xi^l(t) + sum_{s<=t} [B^l + k G^{l+1} 1_{s<t}](t, s) phi(h^l(s))``,   ``g^l = phi'(h^l) z^l``,
    ``Cov chi^{l+1} = s2 Phi^l``, ``Cov xi^l = s2 G^{l+1}``, ``A^l = s2 E[d phi(h^l)/d xi^l]``, ``B^l = s2 E[d g^{l+1}/d
    chi^{l+1}]``.

Everything at time t depends on earlier times alone, so sampling S sites once and sweeping forward is exact up to
``O(S^{-1/2})``. The white noise of a layer is matched to its first two moments, which makes the identity activation
exact for every S.

With weight decay and a schedule, every product with ``W(0)`` is multiplied by what is left of it, and ``k_n(s)`` by
what is left of update s.

Memory: about ``10 depth S T P`` numbers (T = steps + 1) for the sites. Tangent responses come from a back substitution
that stores no tangents and works on ``site_chunk`` sites at a time, ``2 T P^2 site_chunk`` numbers more. (Stored ones
would be ``2 depth S (T P)^2`` numbers: at three layers, 32768 sites and T P = 240 in double precision 90 GB, where this
needs 2 GB.) Sites are divided over the devices of ``mesh``.

Reference: Bordelon & Pehlevan, arXiv:2205.09653; reconstruction of arXiv:2605.07870.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Key

from jaxspec.checks import check_choice, check_integers, check_numbers, finite, is_concrete
from jaxspec.dmft.bulk import Number
from jaxspec.dmft.checks import check_decay, check_schedule
from jaxspec.dmft.fields import SpikeFields, remembered
from jaxspec.dmft.site_records import Problem, Rules
from jaxspec.dmft.sites import match_moments, root_of, sweep
from jaxspec.linalg import eigh


class NonlinearSolution(NamedTuple):
    """What training does, at t = 0, ..., steps (T = steps + 1 times), for P points and L layers.

    Attributes:
        f: outputs, (T, P).
        delta: errors ``y - f``, (T, P).
        Phi: kernels of ``phi(h^l)``, layers 1..L, (L, T, P, T, P).
        G: kernels of ``g^l``, layers 1..L, (L, T, P, T, P).
        A: responses of ``W^l``, l = 1..L-1, (L - 1, T, P, T, P), rows phi, columns xi.
        B: responses of ``W^l``, rows g, columns chi, (L - 1, T, P, T, P).
        ntk: tangent kernel, (T, P, P); the step is stable up to ``eta lambda_max(ntk / P) = 2``.
        layers: fields of the hidden matrices ``W^1, ..., W^{L-1}`` over ``sqrt N``, for `outliers`.
    """

    f: Float[Array, "T P"]
    delta: Float[Array, "T P"]
    Phi: Float[Array, "L T P T P"]
    G: Float[Array, "L T P T P"]
    A: Float[Array, "M T P T P"]
    B: Float[Array, "M T P T P"]
    ntk: Float[Array, "T P P"]
    layers: tuple[SpikeFields, ...]


def solve_nonlinear(
    key: Key[Array, ""],
    kx: Float[Array, "P Q"],
    y: Float[Array, " n"],
    *,
    depth: int,
    eta: Number | Float[Array, " steps"],
    gamma0: Number,
    steps: int,
    activation: Callable[[Array], Array] = jnp.tanh,
    sigma_w: Number = 1.0,
    weight_decay: Number | Float[Array, " steps"] = 0.0,
    num_sites: int = 4096,
    batch_mask: Float[Array, "updates P"] | None = None,
    response: str = "tangent",
    site_chunk: int = 512,
    mesh: Mesh | None = None,
    axis: str = "sites",
) -> NonlinearSolution:
    """Train an infinitely wide network on P points.

    Args:
        key: of the sites.
        kx: ``X X^T / D``, symmetric, positive semi-definite (duplicate points are allowed).
        y: targets.
        depth: static; hidden layers L, >= 1.
        eta: learning rate, or one for each update, (steps,).
        gamma0: feature-learning strength.
        steps: static; number of updates, >= 1.
        activation: static; elementwise, a function equal by value across calls.
        sigma_w: standard deviation of the raw weights.
        weight_decay: every raw parameter is multiplied by ``1 - eta weight_decay`` before it moves; a number, or one
            for each update, (steps,).
        num_sites: static; Monte-Carlo sites S, more than ``2 (steps + 1) P + 1``.
        batch_mask: 1 where a point is in the batch of an update, one row an update (a row for t = steps is ignored);
            None: all points.
        response: static; ``"tangent"``, or ``"stein"``: larger variance, but no second derivative of the activation
            (ReLU).
        site_chunk: static; sites whose tangent responses are computed at once: less memory for fewer, the same numbers
            up to rounding.
        mesh: devices over which the sites are divided.
        axis: its axis; ``num_sites`` must be a multiple of its size.

    Returns:
        `NonlinearSolution`. A learning rate that diverges gives inf and NaN, and no exception.

    Raises:
        ValueError: shapes that do not fit, numbers out of range, ``kx`` not symmetric or indefinite, an activation
            without second derivative under ``"tangent"``.
        RuntimeError: ``kx`` indefinite under a trace.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> solution = solve_nonlinear(
        ...     jax.random.key(0), jnp.array([[1.0, 0.5], [0.5, 1.0]]), jnp.array([1.0, -1.0]), depth=1, eta=0.3,
        ...     gamma0=1.5, steps=2, sigma_w=0.7, activation=lambda h: h, num_sites=64)
        >>> [round(float(f), 2) for f in solution.f[:, 0]]
        [0.0, 0.07, 0.15]
    """
    check_integers(1, depth=depth, steps=steps, site_chunk=site_chunk)
    check_numbers(0, ends="()", eta=eta, gamma0=gamma0, sigma_w=sigma_w)
    check_decay(eta, weight_decay)
    for name, value in {"eta": eta, "weight_decay": weight_decay}.items():
        check_schedule(name, value, steps)
    check_choice("response", response, ("tangent", "stein"))
    with jax.ensure_compile_time_eval():  # known numbers are checked inside a jit too
        _check_points(kx, y)
        if response == "tangent":
            _check_curvature(activation)
    _check_sites(num_sites, 2 * (steps + 1) * len(y) + 1, mesh, axis)
    if batch_mask is None:
        batch_mask = jnp.ones((steps, len(y)))
    if batch_mask.shape not in ((steps, len(y)), (steps + 1, len(y))):
        raise ValueError(f"batch_mask has shape {batch_mask.shape}; expected ({steps}, {len(y)}), a row an update")
    if is_concrete(batch_mask) and np.any(np.asarray(batch_mask[:steps]).sum(1) <= 0):
        raise ValueError("batch_mask has an update without points; expected at least one in each row")
    numbers = (jnp.asarray(x, float) for x in (kx, y, eta, weight_decay, gamma0, sigma_w, batch_mask[:steps]))
    plan = _Plan(int(depth), int(steps), int(num_sites), activation, response == "tangent", int(site_chunk), mesh, axis)
    return _solve(key, tuple(numbers), plan)


class _Plan(NamedTuple):
    """What is static in a run; fields as the arguments of `solve_nonlinear`."""

    depth: int
    steps: int
    num_sites: int
    activation: Callable[[Array], Array]
    tangent: bool
    site_chunk: int
    mesh: Mesh | None
    axis: str


@eqx.filter_jit
def _solve(key, numbers, plan):
    kx, y, eta, weight_decay, gamma0, sigma_w, mask = numbers
    points = len(y)
    kx = _positive(kx)
    eta = jnp.broadcast_to(eta, (plan.steps,))
    shrink = 1 - eta * weight_decay
    share, kept = remembered(0.0, shrink)
    share = jnp.pad(share, ((0, 0), (0, 1)))
    rates = jnp.pad(eta[:, None] * gamma0 * mask / jnp.sum(mask, axis=1, keepdims=True), ((0, 1), (0, 0)))
    problem = Problem(kx, y, rates, share, kept, gamma0, sigma_w**2)
    noise = _noise(key, plan, points, kx.dtype)

    def run(problem, noise, over):
        rules = Rules(problem, plan.activation, plan.tangent, plan.site_chunk, over)
        return sweep(rules, match_moments(noise, over), root_of(problem.sigma2 * problem.kx))

    if plan.mesh is None:
        trace = run(problem, noise, None)
    else:
        specs = jax.tree.map(lambda _: PartitionSpec(None, plan.axis), noise)
        nothing = jax.tree.map(lambda _: PartitionSpec(), problem)
        divided = jax.shard_map(
            lambda problem, noise: run(problem, noise, plan.axis),
            mesh=plan.mesh,
            in_specs=(nothing, specs),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        trace = divided(problem, noise)
    return _solution(problem, trace, shrink)


def _noise(key, plan, points, dtype):
    """White noise of every layer in one stack: chi (layer 1: constant in time), then xi (last layer: the readout)."""
    layers, width = [], (plan.steps + 1) * points
    for layer, own in enumerate(jax.random.split(key, plan.depth)):
        rows = (points if layer == 0 else width) + (1 if layer == plan.depth - 1 else width)
        layers.append(jax.random.normal(own, (rows, plan.num_sites), dtype))
    return layers


def _solution(problem, trace, shrink):
    (times, points), depth = problem.rates.shape, len(trace.Phi)
    updates = (times - 1) * points
    shape = (-1, times, points, times, points)
    strength = (problem.rates * trace.delta).reshape(-1)[:updates]
    layers = tuple(
        SpikeFields(
            C_left=trace.G[layer + 1][:updates, :updates],
            C_right=trace.Phi[layer][:updates, :updates],
            A=trace.A[layer][:updates, :updates],
            B=trace.B[layer][:updates, :updates],
            coeff=strength,
            aspect=jnp.ones(()),
            sigma2=problem.sigma2,
            momentum=jnp.zeros(()),
            shrink=shrink,
            per_step=points,
        )
        for layer in range(depth - 1)
    )
    f, delta = trace.f, trace.delta
    hidden = (trace.A[: depth - 1], trace.B[: depth - 1])
    kernels = (k.reshape(shape) for k in (trace.Phi, trace.G, *hidden))
    return NonlinearSolution(f, delta, *kernels, trace.ntk, layers)


def _positive(kx):
    if is_concrete(kx):
        return kx
    low = eigh(kx)[0][0]
    return eqx.error_if(kx, low < -_tolerance(kx) * jnp.trace(kx), "kx is indefinite; expected eigenvalues >= 0")


def _tolerance(kx):
    return 100 * float(jnp.finfo(kx.dtype).eps) * kx.shape[0]


def _check_points(kx: Any, y: Any) -> None:
    if jnp.ndim(y) != 1 or jnp.shape(kx) != (len(y), len(y)) or len(y) == 0:
        raise ValueError(f"kx has shape {jnp.shape(kx)} and y {jnp.shape(y)}; expected (P, P) and (P,)")
    if not is_concrete(kx, y):
        return
    kx, y = finite("kx", jnp.asarray(kx, float)), finite("y", jnp.asarray(y, float))
    tolerance, kx = _tolerance(kx), np.asarray(kx, np.float64)
    scale, skew = np.abs(kx).max(), np.abs(kx - kx.T).max()
    if skew > tolerance * scale:
        raise ValueError(f"kx differs from its transpose by {skew:.3g}; expected symmetry")
    low = np.linalg.eigvalsh(kx)[0]
    if low < -tolerance * max(np.trace(kx), scale) or not scale > 0:
        raise ValueError(f"kx has the eigenvalue {low:.3g}; expected a positive semi-definite kernel, not zero")


def _check_sites(num_sites, least, mesh, axis):
    check_integers(2, num_sites=num_sites)
    if num_sites <= least:
        raise ValueError(
            f"num_sites is {num_sites}; expected more than 2 (steps + 1) P + 1 = {least}, to match moments"
        )
    if mesh is not None and (axis not in mesh.shape or num_sites % mesh.shape[axis]):
        raise ValueError(f"num_sites is {num_sites}; expected a multiple of axis {axis!r} of {dict(mesh.shape)}")


def _check_curvature(activation):
    """Refuse an activation that is piecewise linear: its second derivative lies in points that no sample meets."""
    if _is_piecewise_linear(activation):
        raise ValueError(
            f"activation {activation} has no second derivative almost everywhere although its slope changes; "
            "use response='stein'"
        )


@eqx.filter_jit
def _is_piecewise_linear(activation):
    points = jnp.linspace(-3.01, 2.99, 64)
    slope = jax.vmap(jax.grad(activation))(points)
    flat = jax.vmap(jax.grad(jax.grad(activation)))(points) == 0
    return jnp.any(flat) & (jnp.max(slope) - jnp.min(slope) > 1e-3) & (jnp.mean(flat) > 0.5)

"""The public way to solve mean-field equations: alternate sampling and kernel updates until nothing moves.

Published codes guess all kernels and responses at all times, sample the single-site processes they define, measure
the kernels anew and repeat, damped or not. Written small, in JAX, and in its favour: white noise is the same in every
iteration, so that it converges below its sampling error; derivatives are exact; everything is one compiled loop. It
solves the same equations as `jaxspec.dmft.solve_nonlinear`, all points in every batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax


class Training(NamedTuple):
    """The network and its training.

    Attributes:
        kx: kernel of the inputs, (P, P).
        y: targets, (P,).
        eta: learning rate.
        gamma0: feature-learning strength.
        sigma2: variance of the weights.
    """

    kx: Any
    y: Any
    eta: float
    gamma0: float
    sigma2: float


class State(NamedTuple):
    """The guess, rows (time, point) flattened, R of them; kernels and responses of both layers.

    Attributes:
        phi: ``<phi(h), phi(h)>``, (2, R, R).
        g: ``<g, g>`` of layer 1 (unused) and 2, (2, R, R).
        a: response of phi of layer 1 to the backward source, (R, R).
        b: response of g of layer 2 to the forward source, (R, R).
        f: outputs, (R,).
        change: largest change of an output in the last iteration.
        iterations: done so far.
    """

    phi: Array
    g: Array
    a: Array
    b: Array
    f: Array
    change: Array
    iterations: Array


def fixed_point_solver(
    training: Training,
    *,
    times: int,
    sites: int,
    activation: Callable[[Array], Array] = jnp.tanh,
    damping: float = 1.0,
    tol: float = 1e-3,
    most: int = 500,
) -> Callable[[Array], State]:
    """Two hidden layers by iteration over all times at once, as a compiled function of the key.

    Args:
        training: numbers.
        times: recorded times T.
        sites: Monte-Carlo sites.
        activation: elementwise.
        damping: share of the new kernels in the next guess.
        tol: largest change of an output at which it stops.
        most: iterations at most.

    Returns:
        From a key of the white noise to the last state.
    """
    points = len(training.y)
    rows = times * points

    @jax.jit
    def solve(key):
        widths = points, rows, rows, 1
        noise = [jax.random.normal(k, (sites, n)) for k, n in zip(jax.random.split(key, 4), widths, strict=True)]
        start = State(
            jnp.tile(jnp.tile(jnp.asarray(training.kx, float), (times, times)), (2, 1, 1)),
            jnp.ones((2, rows, rows)),
            *jnp.zeros((2, rows, rows)),
            jnp.zeros(rows),
            jnp.asarray(jnp.inf),
            jnp.asarray(0),
        )
        improve = _iteration(training, times, activation, damping)
        unfinished = lambda state: (state.change > tol) & (state.iterations < most)  # noqa: E731
        return lax.while_loop(unfinished, lambda state: improve(state, noise), start)

    return solve


def _iteration(training, times, activation, damping):
    kx, y, s2 = jnp.asarray(training.kx, float), jnp.asarray(training.y, float), training.sigma2
    points = len(y)
    time = jnp.arange(times * points) // points
    past = time[:, None] > time
    slope = jax.vmap(jax.vmap(jax.grad(activation)))

    def integrate(mixing, chi, xi):
        """All sites over all times: phi and g, (S, R) each."""
        into_h, into_z = mixing

        def step(state, t):
            phi, slopes, g = state
            row = t * points
            own = partial(lax.dynamic_slice_in_dim, start_index=row, slice_size=points)
            put = partial(lax.dynamic_update_slice_in_dim, start_index=row, axis=1)
            h = own(chi, axis=1) + g @ own(into_h, axis=0).T
            phi, slopes = put(phi, activation(h)), put(slopes, slope(h))
            return (phi, slopes, put(g, slope(h) * (own(xi, axis=1) + phi @ own(into_z, axis=0).T))), None

        blank = jnp.zeros_like(chi)
        (phi, _, g), _ = lax.scan(step, (blank, blank, blank), jnp.arange(times))
        return phi, g

    def sample(mixing, chi, xi, wrt):
        """Sites, their kernels, and the mean derivative of phi in xi (``wrt`` 1) or of g in chi (0)."""
        phi, g = integrate(mixing, chi, xi)

        def along(direction):
            moved = jnp.broadcast_to(direction, chi.shape), jnp.zeros_like(chi)
            _, tangents = jax.jvp(partial(integrate, mixing), (chi, xi), moved if wrt == 0 else moved[::-1])
            return jnp.mean(tangents[1 - wrt], axis=0)

        response = lax.map(along, jnp.eye(times * points)).T
        return phi, phi.T @ phi / len(phi), g.T @ g / len(g), response

    def improve(state, noise):
        strength = jnp.tile(training.eta * training.gamma0 / points * y, times) - (
            training.eta * training.gamma0 / points * state.f
        )
        trained = lambda kernel: jnp.where(past, strength * kernel, 0.0)  # noqa: E731
        tiled = jnp.tile(kx, (times, times))
        chi_1 = jnp.tile(noise[0] @ _root(s2 * kx).T, (1, times))
        xi_1, chi_2 = noise[1] @ _root(s2 * state.g[1]).T, noise[2] @ _root(s2 * state.phi[0]).T
        xi_2 = jnp.broadcast_to(jnp.sqrt(s2) * noise[3], chi_2.shape)
        mixing_1 = trained(tiled), state.b + trained(state.g[1])
        mixing_2 = state.a + trained(state.phi[0]), trained(1.0)
        _, phi_1, g_1, response = sample(mixing_1, chi_1, xi_1, 1)
        a = s2 * response
        phi_2_sites, phi_2, g_2, response = sample(mixing_2, chi_2, xi_2, 0)
        b = s2 * response
        to_readout = s2 * jnp.mean(phi_2_sites * noise[3] / jnp.sqrt(s2), axis=0)  # Stein: d phi / d readout
        f = (to_readout + jnp.sum(trained(phi_2), axis=1)) / training.gamma0
        fresh = jnp.stack([phi_1, phi_2]), jnp.stack([g_1, g_2]), a, b, f
        moved = [old + damping * (new - old) for old, new in zip(state[:5], fresh, strict=True)]
        return State(*moved, jnp.max(jnp.abs(f - state.f)), state.iterations + 1)

    return improve


def _root(kernel):
    """Lower triangular root, the kernel made safely positive."""
    size = len(kernel)
    return jnp.linalg.cholesky(kernel + 1e-9 * jnp.trace(kernel) / size * jnp.eye(size))

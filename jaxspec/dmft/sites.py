"""Single sites of every layer, swept forward in time: the computation inside `solve_nonlinear`.

Arrays over sites have the site axis last; rows are pairs (time, point), time major. Rows not reached yet are zero, so
that sums over the past need no mask.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from jaxspec.linalg import eigh

_HIGHEST = jax.lax.Precision.HIGHEST


class Problem(NamedTuple):
    """Numbers of a training run.

    Attributes:
        kx: kernel of the inputs, (P, P).
        y: targets, (P,).
        rates: ``eta gamma0 mask / |batch|``; zero in the last row, (T, P).
        gamma0: feature-learning strength.
        sigma2: variance of the weights.
    """

    kx: Float[Array, "P P"]
    y: Float[Array, "P"]
    rates: Float[Array, "T P"]
    gamma0: Float[Array, ""]
    sigma2: Float[Array, ""]


class Layer(NamedTuple):
    """Sites of one layer, R = T P rows.

    Attributes:
        phi: activations, (R, S).
        slope: ``phi'(h)``, (R, S).
        g: back-propagated fields, (R, S).
        chi_noise: white noise of the forward source, (R or P, S).
        xi_noise: of the backward source, (R or 1, S).
        chi_root: triangular root of the forward source's covariance; rows not reached are those of I, (R, R).
        xi_root: of the backward source's.
        dphi: tangents ``d phi / d chi``, (R, R, S); None where not needed.
        dg: tangents ``d g / d chi``.
        readout_phi: tangent of phi in the readout weight, last layer, (R, S).
        readout_g: tangent of g in the readout weight.
    """

    phi: Array
    slope: Array
    g: Array
    chi_noise: Array
    xi_noise: Array
    chi_root: Array
    xi_root: Array
    dphi: Array | None
    dg: Array | None
    readout_phi: Array | None
    readout_g: Array | None


class Trace(NamedTuple):
    """Kernels, responses and outputs so far: fields of the solution, rows and columns flattened.

    Attributes:
        Phi: (L, R, R), and so G, A and B (the last layer of A and B stays 0).
        f: outputs, (T, P), and so delta.
        ntk: (T, P, P).
    """

    Phi: Array
    G: Array
    A: Array
    B: Array
    f: Array
    delta: Array
    ntk: Array


class Now(NamedTuple):
    """Sites of one layer at the present time.

    Attributes:
        h: (P, S).
        dh: tangent of h in chi, (P, R, S), or None.
        dh_readout: tangent of h in the readout weight, (P, S), or None.
    """

    h: Array
    dh: Array | None
    dh_readout: Array | None


class Rules(NamedTuple):
    """What a sweep is made with.

    Attributes:
        problem: numbers.
        activation: on arrays.
        slope: its derivative, on arrays.
        curvature: its second derivative, on arrays.
        tangent: whether responses are means of tangents, else by Stein's lemma.
        over: mesh axis over which sites are divided.
    """

    problem: Problem
    activation: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    curvature: Callable[[Array], Array]
    tangent: bool
    over: str | None


def match_moments(noise: list[Array], over: str | None) -> list[Array]:
    """Noise with sample mean 0 and sample covariance I, exactly.

    Args:
        noise: stacks (rows, S), of every layer.
        over: mesh axis over which sites are divided.

    Returns:
        The same shapes.
    """

    def match(stack):
        centred = stack - mean(stack, over)[:, None]
        root = jnp.linalg.cholesky(covariance(centred, centred, over))
        return solve_triangular(root, centred, lower=True)

    return [match(match(stack)) for stack in noise]  # once more for the rounding of the first


def mean(x: Array, over: str | None) -> Array:
    """Mean over all sites, the last axis."""
    own = jnp.mean(x, axis=-1)
    return own if over is None else jax.lax.pmean(own, over)


def covariance(x: Float[Array, "m S"], y: Float[Array, "n S"], over: str | None) -> Float[Array, "m n"]:
    """``E[x y^T]`` over all sites."""
    own = _product(x, y.T) / x.shape[-1]
    return own if over is None else jax.lax.pmean(own, over)


def root_of(matrix: Float[Array, "P P"]) -> Float[Array, "P P"]:
    """Symmetric square root of a positive semi-definite matrix."""
    values, vectors = eigh(matrix)
    return _product(vectors * jnp.sqrt(jnp.maximum(values, 0)), vectors.T)


def sweep(
    problem: Problem,
    noise: list[Array],
    input_root: Float[Array, "P P"],
    activation: Callable[[Array], Array],
    response: str,
    over: str | None,
) -> Trace:
    """All times, one after the other.

    Args:
        problem: numbers of the run.
        noise: matched white noise of every layer, forward source first.
        input_root: root of ``sigma2 kx``.
        activation: elementwise.
        response: ``"tangent"`` or ``"stein"``.
        over: mesh axis over which sites are divided.

    Returns:
        `Trace`.
    """
    depth, (times, points) = len(noise), problem.rates.shape
    rows = times * points
    dtype = problem.kx.dtype
    layers = [_blank(noise[i], i, depth, rows, points, response) for i in range(depth)]
    # The first source is constant in time.
    layers[0] = layers[0]._replace(chi_noise=_product(input_root, layers[0].chi_noise))
    square = jnp.zeros((depth, rows, rows), dtype)
    row, kernel = jnp.zeros((times, points), dtype), jnp.zeros((times, points, points), dtype)
    trace = Trace(square, square, square, square, row, row, kernel)
    first = jax.grad(activation)
    slope, curvature = (jax.vmap(jax.vmap(f)) for f in (first, jax.grad(first)))
    step = partial(_step, Rules(problem, activation, slope, curvature, response == "tangent", over))
    (_, trace), _ = jax.lax.scan(step, (layers, trace), jnp.arange(times))
    return trace


def _blank(noise, index, depth, rows, points, response):
    sites, dtype = noise.shape[-1], noise.dtype
    count = points if index == 0 else rows
    nothing, eye = jnp.zeros((rows, sites), dtype), jnp.eye(rows, dtype=dtype)
    tangents = jnp.zeros((rows, rows, sites), dtype) if response == "tangent" and depth > 1 else None
    readout = nothing if response == "tangent" and index == depth - 1 else None
    return Layer(
        nothing, nothing, nothing, noise[:count], noise[count:], eye, eye, tangents, tangents, readout, readout
    )


def _step(rules, carry, t):
    layers, trace = carry
    layers, depth, start = list(layers), len(layers), t * len(rules.problem.y)
    now = []
    for i in range(depth):
        layers[i], trace, seen = _forward(rules, layers[i], trace, i, start)
        if i < depth - 1:
            trace = _respond(rules, layers[i], trace, i, seen, start)
        now.append(seen)
    trace = _output(rules, layers[-1], trace, t)
    for i in reversed(range(depth)):
        layers[i], trace = _backward(rules, layers[i], trace, i, now[i], start)
    return (layers, _with_tangent_kernel(rules.problem, trace, t)), None


def _forward(rules, layer, trace, i, start):
    problem, points, rows = rules.problem, len(rules.problem.y), len(layer.phi)
    if i == 0:
        chi, root = layer.chi_noise, layer.chi_root
    else:
        root = _extended(layer.chi_root, problem.sigma2 * _rows(trace.Phi[i - 1], start, points), start)
        chi = _product(_rows(root, start, points), layer.chi_noise)
    mixing = _rows(_mixing(problem, trace, i), start, points)
    h = chi + _product(mixing, layer.g)
    slope = rules.slope(h)
    phi = _put(layer.phi, rules.activation(h), start)
    layer = layer._replace(phi=phi, slope=_put(layer.slope, slope, start), chi_root=root)
    trace = trace._replace(Phi=_put_kernel(trace.Phi, i, covariance(_rows(phi, start, points), phi, rules.over), start))
    dh = readout = None
    if layer.dphi is not None:
        own = jax.nn.one_hot(start + jnp.arange(points), rows, dtype=h.dtype)[:, :, None]
        dh = own + _contract(mixing, layer.dg)
        layer = layer._replace(dphi=_put(layer.dphi, slope[:, None] * dh, start))
    if layer.readout_phi is not None:
        readout = _product(mixing, layer.readout_g)
        layer = layer._replace(readout_phi=_put(layer.readout_phi, slope * readout, start))
    return layer, trace, Now(h, dh, readout)


def _respond(rules, layer, trace, i, now, start):
    """New rows of ``A = s2 E[d phi(t) / d xi(s)]``, s < t."""
    points, rows = len(now.h), len(layer.phi)
    if rules.tangent:
        # h(t) feels xi(s) through g(s): by the tangent in chi of what g(s) was added to.
        through = jnp.einsum("pjs,jk->pks", now.dh, _mixing(rules.problem, trace, i), precision=_HIGHEST)
        response = mean(_rows(layer.slope, start, points)[:, None] * through * layer.slope, rules.over)
    else:
        past = jnp.arange(rows) < start
        moments = covariance(_rows(layer.phi, start, points), layer.xi_noise, rules.over)
        response = _by_stein(layer.xi_root, jnp.where(past, moments, 0.0))
    return trace._replace(A=_put(trace.A, (rules.problem.sigma2 * response)[None], start, i))


def _output(rules, layer, trace, t):
    problem, points = rules.problem, len(rules.problem.y)
    start = t * points
    if rules.tangent:
        response = problem.sigma2 * mean(_rows(layer.readout_phi, start, points), rules.over)
    else:
        moments = covariance(_rows(layer.phi, start, points), layer.xi_noise, rules.over)[:, 0]
        response = jnp.where(t > 0, jnp.sqrt(problem.sigma2) * moments, 0.0)
    trained = _product(_rows(trace.Phi[-1], start, points), _strength(problem, trace))
    f = (response + trained) / problem.gamma0
    return trace._replace(f=trace.f.at[t].set(f), delta=trace.delta.at[t].set(problem.y - f))


def _backward(rules, layer, trace, i, now, start):
    problem, points, rows = rules.problem, len(rules.problem.y), len(layer.phi)
    strength = jnp.where(jnp.arange(rows) < start, _strength(problem, trace), 0.0)
    if i == len(trace.Phi) - 1:
        root, xi, mixing = layer.xi_root, jnp.sqrt(problem.sigma2) * layer.xi_noise, strength[None]
    else:
        kernel = _rows(trace.G[i + 1], start, points)
        root = _extended(layer.xi_root, problem.sigma2 * kernel, start)
        xi = _product(_rows(root, start, points), layer.xi_noise)
        mixing = _rows(trace.B[i], start, points) + kernel * strength
    z = xi + _product(mixing, layer.phi)
    slope = _rows(layer.slope, start, points)
    g = _put(layer.g, slope * z, start)
    layer = layer._replace(g=g, xi_root=root)
    trace = trace._replace(G=_put_kernel(trace.G, i, covariance(_rows(g, start, points), g, rules.over), start))
    bend = rules.curvature(now.h) * z if rules.tangent else None
    if layer.readout_g is not None:
        dg = bend * now.dh_readout + slope * (1 + _product(mixing, layer.readout_phi))
        layer = layer._replace(readout_g=_put(layer.readout_g, dg, start))
    response = None
    if layer.dg is not None:
        dg = bend[:, None] * now.dh + slope[:, None] * _contract(mixing, layer.dphi)
        layer = layer._replace(dg=_put(layer.dg, dg, start))
        response = mean(dg, rules.over)
    elif i > 0:
        reached = jnp.arange(rows) < start + points
        moments = covariance(_rows(g, start, points), layer.chi_noise, rules.over)
        response = _by_stein(layer.chi_root, jnp.where(reached, moments, 0.0))
    if i > 0:
        trace = trace._replace(B=_put(trace.B, (problem.sigma2 * response)[None], start, i - 1))
    return layer, trace


def _with_tangent_kernel(problem, trace, t):
    points = len(problem.y)
    now = jnp.arange(points) + t * points

    def block(kernels):
        return kernels[..., now[:, None], now]

    phi, g = block(trace.Phi), block(trace.G)
    kernel = phi[-1] + jnp.sum(g[1:] * phi[:-1], axis=0) + g[0] * problem.kx
    return trace._replace(ntk=trace.ntk.at[t].set(kernel))


def _strength(problem, trace):
    """``k_n(s)``, flattened; zero for times not reached."""
    return (problem.rates * trace.delta).reshape(-1)


def _mixing(problem, trace, i):
    """What multiplies g in the forward field of layer i: all rows so far, strictly lower triangular in time."""
    points, strength = len(problem.y), _strength(problem, trace)
    time = jnp.arange(len(strength)) // points
    if i == 0:
        mixing = jnp.tile(problem.kx, (len(strength) // points,) * 2) * strength
    else:
        mixing = trace.A[i - 1] + trace.Phi[i - 1] * strength
    return jnp.where(time[:, None] > time, mixing, 0.0)


def _extended(root, covariances, start):
    """The triangular root with the next rows, from the new rows of the covariance (P, R).

    A kernel that has stopped moving is singular: every diagonal block gets a ridge, far above rounding and far below
    the digits of interest, of which the Cholesky factor is backward stable.
    """
    points, rows = covariances.shape
    past = jnp.where(jnp.arange(rows) < start, covariances, 0.0)
    across = solve_triangular(root, past.T, lower=True).T
    block = jax.lax.dynamic_slice_in_dim(covariances, start, points, axis=1)
    jitter = float(jnp.finfo(block.dtype).eps) ** 0.75 * jnp.trace(block) / points
    corner = jnp.linalg.cholesky(block - _product(across, across.T) + jitter * jnp.eye(points, dtype=block.dtype))
    return _put(root, jax.lax.dynamic_update_slice(across, corner, (0, start)), start)


def _by_stein(root, moments):
    """``E[d x / d source]`` from ``E[x noise^T]``, where ``source = root noise``."""
    return solve_triangular(root.T, moments.T, lower=False).T


def _product(a, b):
    return jnp.matmul(a, b, precision=_HIGHEST)


def _contract(mixing, tangents):
    return jnp.tensordot(mixing, tangents, 1, precision=_HIGHEST)


def _rows(x, start, count):
    return jax.lax.dynamic_slice_in_dim(x, start, count)


def _put(x, rows, start, *front):
    """``x`` with ``rows`` from row ``start`` on (of the matrix ``front`` of a stack)."""
    index = (*front, start, *(0,) * (x.ndim - len(front) - 1))
    return jax.lax.dynamic_update_slice(x, rows, index)


def _put_kernel(kernels, i, rows, start):
    """The i-th kernel with new rows and, by symmetry, new columns."""
    kernels = jax.lax.dynamic_update_slice(kernels, rows.T[None], (i, 0, start))
    return jax.lax.dynamic_update_slice(kernels, rows[None], (i, start, 0))

"""Single sites of every layer, swept forward in time: the computation inside `solve_nonlinear`.

Arrays over sites have the site axis last; rows are pairs (time, point), time major. Rows not reached yet are zero, so
that sums over the past need no mask. With ``M`` and ``N`` what multiplies g in h and phi in z (all rows so far),

    ``h = kept chi + M g``,  ``z = kept xi + N phi``,  ``g = phi'(h) z``.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from jaxspec.dmft.site_records import Layer, Rules, Trace
from jaxspec.dmft.site_responses import SiteSlopes, input_response, output_response
from jaxspec.linalg import eigh
from jaxspec.linalg.normalisation import matmul


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
    """Mean over all sites, the last axis.

    Args:
        x: values of the sites of this device, (..., S).
        over: mesh axis over which sites are divided; None: all are here.
    """
    own = jnp.mean(x, axis=-1)
    return own if over is None else jax.lax.pmean(own, over)


def covariance(x: Float[Array, "m S"], y: Float[Array, "n S"], over: str | None) -> Float[Array, "m n"]:
    """``E[x y^T]`` over all sites.

    Args:
        x: rows of values of the sites of this device.
        y: the same sites.
        over: mesh axis over which sites are divided; None: all are here.
    """
    own = matmul(x, y.T) / x.shape[-1]
    return own if over is None else jax.lax.pmean(own, over)


def root_of(matrix: Float[Array, "P P"]) -> Float[Array, "P P"]:
    """Symmetric square root of a positive semi-definite matrix.

    Args:
        matrix: symmetric; eigenvalues below 0 count as 0.
    """
    values, vectors = eigh(matrix)
    return matmul(vectors * jnp.sqrt(jnp.maximum(values, 0)), vectors.T)


def sweep(rules: Rules, noise: list[Array], input_root: Float[Array, "P P"]) -> Trace:
    """All times, one after the other.

    Args:
        rules: of the run.
        noise: matched white noise of every layer, forward source first.
        input_root: root of ``sigma2 kx``.

    Returns:
        `Trace`.
    """
    problem, depth = rules.problem, len(noise)
    times, points = problem.rates.shape
    rows, dtype = times * points, problem.kx.dtype
    layers = [_blank(rules, own, i, depth) for i, own in enumerate(noise)]
    # The first source is constant in time.
    layers[0] = layers[0]._replace(chi_noise=matmul(input_root, layers[0].chi_noise))
    square = jnp.zeros((depth, rows, rows), dtype)
    row, kernel = jnp.zeros((times, points), dtype), jnp.zeros((times, points, points), dtype)
    trace = Trace(square, square, square, square, row, row, kernel)
    (_, trace), _ = jax.lax.scan(partial(_step, rules), (layers, trace), jnp.arange(times))
    return trace


def _blank(rules, noise, index, depth):
    times, points = rules.problem.rates.shape
    rows, sites, dtype = times * points, noise.shape[-1], noise.dtype
    count = points if index == 0 else rows
    nothing, eye = jnp.zeros((rows, sites), dtype), jnp.eye(rows, dtype=dtype)
    bend = nothing if rules.tangent else None
    readout = nothing if rules.tangent and index == depth - 1 else None
    return Layer(
        phi=nothing,
        slope=nothing,
        bend=bend,
        g=nothing,
        chi_noise=noise[:count],
        xi_noise=noise[count:],
        chi_root=eye,
        xi_root=eye,
        readout_phi=readout,
        readout_g=readout,
    )


def _step(rules, carry, t):
    layers, trace = carry
    layers, depth, start = list(layers), len(layers), t * len(rules.problem.y)
    now = []
    for i in range(depth):
        layers[i], trace, h = _forward(rules, layers[i], trace, i, start)
        if i < depth - 1:
            trace = _respond(rules, layers[i], trace, i, start)
        now.append(h)
    trace = _output(rules, layers[-1], trace, t)
    for i in reversed(range(depth)):
        layers[i], trace = _backward(rules, layers[i], trace, i, now[i], start)
        if i > 0:
            trace = _respond_back(rules, layers[i], trace, i, start)
    return (layers, _with_tangent_kernel(rules.problem, trace, t)), None


def _forward(rules, layer, trace, i, start):
    """``h = kept chi + M g``; the kernel of its activations."""
    problem, points = rules.problem, len(rules.problem.y)
    kept = problem.kept[start // points]
    if i == 0:
        chi = layer.chi_noise
    else:
        root = _extended(layer.chi_root, problem.sigma2 * _rows(trace.Phi[i - 1], start, points), start)
        chi = matmul(_rows(root, start, points), layer.chi_noise)
        layer = layer._replace(chi_root=root)
    mixing = _rows(_into_h(problem, trace, i), start, points)
    h = kept * chi + matmul(mixing, layer.g)
    slope = rules.slope(h)
    phi = _put(layer.phi, rules.activation(h), start)
    layer = layer._replace(phi=phi, slope=_put(layer.slope, slope, start))
    trace = trace._replace(Phi=_put_kernel(trace.Phi, i, covariance(_rows(phi, start, points), phi, rules.over), start))
    if layer.readout_phi is not None:
        dphi = slope * matmul(mixing, layer.readout_g)
        layer = layer._replace(readout_phi=_put(layer.readout_phi, dphi, start))
    return layer, trace, h


def _respond(rules, layer, trace, i, start):
    """New rows of ``A = s2 E[d phi(t) / d xi(s)]``, s < t."""
    problem, points = rules.problem, len(rules.problem.y)
    if rules.tangent:
        sites = SiteSlopes(layer.slope, layer.bend, _into_h(problem, trace, i), _into_z(problem, trace, i))
        response = input_response(sites, start, points, rules.chunk, rules.over) * problem.kept_rows
    else:
        past = jnp.arange(len(layer.phi)) < start
        moments = covariance(_rows(layer.phi, start, points), layer.xi_noise, rules.over)
        response = _by_stein(layer.xi_root, jnp.where(past, moments, 0.0))
    return trace._replace(A=_put(trace.A, (problem.sigma2 * response)[None], start, i))


def _respond_back(rules, layer, trace, i, start):
    """New rows of ``B = s2 E[d g(t) / d chi(s)]``, s <= t, of the matrix below layer i."""
    problem, points = rules.problem, len(rules.problem.y)
    if rules.tangent:
        sites = SiteSlopes(layer.slope, layer.bend, _into_h(problem, trace, i), _into_z(problem, trace, i))
        response = output_response(sites, start, points, rules.chunk, rules.over) * problem.kept_rows
    else:
        reached = jnp.arange(len(layer.phi)) < start + points
        moments = covariance(_rows(layer.g, start, points), layer.chi_noise, rules.over)
        response = _by_stein(layer.chi_root, jnp.where(reached, moments, 0.0))
    return trace._replace(B=_put(trace.B, (problem.sigma2 * response)[None], start, i - 1))


def _output(rules, layer, trace, t):
    problem, points = rules.problem, len(rules.problem.y)
    start = t * points
    if rules.tangent:
        response = problem.sigma2 * mean(_rows(layer.readout_phi, start, points), rules.over)
    else:
        moments = covariance(_rows(layer.phi, start, points), layer.xi_noise, rules.over)[:, 0]
        response = jnp.where(t > 0, jnp.sqrt(problem.sigma2) * moments, 0.0)
    trained = jnp.sum(_rows(_trained(problem, trace, trace.Phi[-1]), start, points), axis=1)
    f = (problem.kept[t] * response + trained) / problem.gamma0
    return trace._replace(f=trace.f.at[t].set(f), delta=trace.delta.at[t].set(problem.y - f))


def _backward(rules, layer, trace, i, h, start):
    """``z = kept xi + N phi``, ``g = phi'(h) z``; the kernel of g."""
    problem, points = rules.problem, len(rules.problem.y)
    kept = problem.kept[start // points]
    mixing = _rows(_into_z(problem, trace, i), start, points)
    if i == len(trace.Phi) - 1:
        xi = jnp.sqrt(problem.sigma2) * layer.xi_noise
    else:
        root = _extended(layer.xi_root, problem.sigma2 * _rows(trace.G[i + 1], start, points), start)
        xi = matmul(_rows(root, start, points), layer.xi_noise)
        layer = layer._replace(xi_root=root)
    z = kept * xi + matmul(mixing, layer.phi)
    slope = _rows(layer.slope, start, points)
    g = _put(layer.g, slope * z, start)
    layer = layer._replace(g=g)
    trace = trace._replace(G=_put_kernel(trace.G, i, covariance(_rows(g, start, points), g, rules.over), start))
    if rules.tangent:
        layer = layer._replace(bend=_put(layer.bend, rules.curvature(h) * z, start))
    if layer.readout_g is not None:
        through = matmul(_rows(_into_h(problem, trace, i), start, points), layer.readout_g)
        dg = _rows(layer.bend, start, points) * through + slope * (kept + matmul(mixing, layer.readout_phi))
        layer = layer._replace(readout_g=_put(layer.readout_g, dg, start))
    return layer, trace


def _with_tangent_kernel(problem, trace, t):
    points = len(problem.y)
    now = jnp.arange(points) + t * points

    def block(kernels):
        return kernels[..., now[:, None], now]

    phi, g = block(trace.Phi), block(trace.G)
    kernel = phi[-1] + jnp.sum(g[1:] * phi[:-1], axis=0) + g[0] * problem.kx
    return trace._replace(ntk=trace.ntk.at[t].set(kernel))


def _trained(problem, trace, kernel):
    """``share[t, s] k_n(s)`` times a kernel: what the updates so far put into the weights; strictly lower in time."""
    points = len(problem.y)
    share = jnp.repeat(jnp.repeat(problem.share, points, axis=0), points, axis=1)
    time = jnp.arange(len(share)) // points
    strength = (problem.rates * trace.delta).reshape(-1)
    # A diverging run is not finite later on: `where`, not a product with zero.
    return jnp.where(time[:, None] > time, share * strength * kernel, 0.0)


def _into_h(problem, trace, i):
    """``M``: what multiplies g in the forward field of layer i, strictly lower triangular in time."""
    if i == 0:
        times = len(problem.kept)
        return _trained(problem, trace, jnp.tile(problem.kx, (times, times)))
    return problem.kept_rows[:, None] * trace.A[i - 1] + _trained(problem, trace, trace.Phi[i - 1])


def _into_z(problem, trace, i):
    """``N``: what multiplies phi in the backward field of layer i, lower triangular in time."""
    if i == len(trace.Phi) - 1:
        return _trained(problem, trace, 1.0)
    return problem.kept_rows[:, None] * trace.B[i] + _trained(problem, trace, trace.G[i + 1])


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
    corner = jnp.linalg.cholesky(block - matmul(across, across.T) + jitter * jnp.eye(points, dtype=block.dtype))
    return _put(root, jax.lax.dynamic_update_slice(across, corner, (0, start)), start)


def _by_stein(root, moments):
    """``E[d x / d source]`` from ``E[x noise^T]``, where ``source = root noise``."""
    return solve_triangular(root.T, moments.T, lower=False).T


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

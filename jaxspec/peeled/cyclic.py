r"""Cyclic targets in the Fourier domain, where the nuclear-norm ball is a group-lasso ball.

For ``Z = circ(z)`` with ``z^ = fft(z)`` the singular values are ``|z^_k|``; with T token orbits and R context orbits of
size n, ``Z^_k`` is a T x R block and ``||Z||_* = sum_k ||Z^_k||_*``. The solver keeps the blocks of
``k = 0..n//2``, of which those between 0 and n/2 count twice.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from jaxspec.checks import check_numbers
from jaxspec.linalg import ordered, singular_values
from jaxspec.linalg.decompositions import svd
from jaxspec.peeled.checks import (
    PATIENCE,
    check_distributions,
    checked_start,
    default_gap,
    floating,
    masses_or_uniform,
)
from jaxspec.peeled.logits import Limits
from jaxspec.peeled.loss import loss_and_gradient, unbounded_logits
from jaxspec.peeled.problem import PeeledSolution, numerical_rank
from jaxspec.prox.balls import l1_shift
from jaxspec.solvers import accelerated_proximal_gradient


def solve_cyclic(
    kernel: Any,
    budget: Any,
    *,
    weights: Any = None,
    tol: Any = None,
    max_iter: int = 20000,
    check_every: int = 10,
    init: Any = None,
    checked: bool = True,
) -> PeeledSolution:
    r"""The optimum of `solve_logits` for circulant targets, in ``O(n log n)`` an iteration.

    One orbit: ``min_z logsumexp(z) - <p, z>`` subject to ``sum_k |z^_k| <= n E``. Several: blocks
    ``P[(a, i), (b, j)] = kernel[a, b, (i - j) mod n]``, radius ``n sqrt(T R) E``. Maps over kernels and budgets by
    `jax.vmap`.

    Args:
        kernel: (n,), of sum 1, or (T, R, n), where each ``kernel[:, b, :]`` has sum 1.
        budget: ``E = sqrt(E_W E_H)`` >= 0.
        weights: mass of each context orbit, (R,); None: 1/R each.
        tol: duality gap, in nats, at which to stop; None: 1e-10 (float64), 1e-6 (float32).
        max_iter: iterations at most (static).
        check_every: iterations between two looks at the gap (static).
        init: kernel of logits to start from, or a `PeeledSolution`; None: 0.
        checked: whether to look at the values.

    Returns:
        The solution; ``logits`` is a kernel, which `circulant` expands; ``singular_values`` are all those of the
        expanded matrix.

    Raises:
        ValueError: for an argument out of range, naming it.

    Example:
        >>> from jaxspec.peeled import von_mises_kernel
        >>> solution = solve_cyclic(von_mises_kernel(8, 2.0), 1.0)
        >>> solution.logits.round(2)[:3], int(solution.rank)
        (Array([0.71, 1.  , 0.71], dtype=float32), 2)
    """
    kernel = floating("kernel", kernel)
    if kernel.ndim not in (1, 3) or kernel.size == 0:
        raise ValueError(f"kernel has shape {kernel.shape}; expected (n,) or (T, R, n), not empty")
    blocks = kernel if kernel.ndim == 3 else kernel[None, None]
    if checked:
        check_distributions("kernel", _columns(blocks))
        check_numbers(0, budget=budget)
    dtype = blocks.dtype
    weights = masses_or_uniform("weights", weights, blocks.shape[1], dtype, checked=checked)
    start = checked_start(init, kernel.shape, dtype, checked=checked).reshape(blocks.shape)
    limits = Limits(max_iter, check_every)
    solution = solve_blocks(blocks, jnp.asarray(budget, dtype), weights, start, default_gap(tol, dtype), limits)[0]
    return solution._replace(logits=solution.logits.reshape(kernel.shape))


@eqx.filter_jit
def solve_blocks(
    kernel: Float[Array, "T R n"],
    budget: Float[Array, ""],
    weights: Float[Array, " R"],
    start: Float[Array, "T R n"],
    tol: Float[Array, ""],
    limits: Limits,
) -> tuple[PeeledSolution, Complex[Array, "K T R"]]:
    """`solve_cyclic` for checked blocks.

    Args:
        kernel: targets.
        budget: E.
        weights: masses of the context orbits.
        start: logits.
        tol: gap.
        limits: of the loop (static).

    Returns:
        The solution and its Fourier blocks ``k = 0..n//2``, with the exact zeros of the projection.
    """
    T, R, n = kernel.shape
    loss = _Loss(kernel, weights / n)
    radius = n * jnp.sqrt(jnp.asarray(T * R, kernel.dtype)) * budget
    free, exists = unbounded_logits(_columns(kernel), weights)
    free = _split(_blocks(free, kernel.shape))
    multiplicity = _multiplicity(n)
    norm = jnp.where(exists, _dot(multiplicity, _values(free)), jnp.inf)
    active = ~(norm <= radius)
    fit = accelerated_proximal_gradient(
        loss,
        _Project(radius, n),
        # A column without weight has no gradient: it stays where it starts, at 0.
        jnp.where(active, _split(ordered(jnp.where(weights[:, None] > 0, start, 0), norm)), free),
        step=2 / jnp.max(loss.weights),
        inner=_Inner(n),
        certificate=_Gap(radius, n),
        check_every=limits.check_every,
        tol=tol,
        max_iter=limits.max_iter,
        patience=PATIENCE,
    )
    image = jnp.where(active, fit.x, free)
    values = _values(image)
    value, gradient = loss(ordered(image, values))
    gap = _Gap(radius, n)(image, gradient)
    spectrum = _whole_spectrum(values, n)
    solution = PeeledSolution(
        logits=_kernel(image, n),
        value=value,
        gap=gap,
        multiplier=jnp.where(active, jnp.max(_values(ordered(gradient, gap))), 0),
        singular_values=spectrum,
        rank=numerical_rank(spectrum, radius, n * max(T, R)),
        iterations=fit.iterations,
        converged=gap <= tol,
        active=active,
    )
    return solution, _joined(image)


class _Loss(eqx.Module):
    """Loss as a function of the Fourier blocks, real and imaginary parts on a leading axis."""

    kernel: Array
    weights: Array

    def __call__(self, parts: Array) -> tuple[Array, Array]:
        n = self.kernel.shape[-1]
        logits = _columns(_kernel(parts, n))
        value, gradient = loss_and_gradient(logits, _columns(self.kernel), self.weights)
        # The n contexts of an orbit share their column's value.
        return n * value, _split(_blocks(gradient, self.kernel.shape))


class _Project(eqx.Module):
    radius: Array
    n: int = eqx.field(static=True)

    def __call__(self, parts: Array, step: Array) -> Array:
        if parts.shape[-2:] == (1, 1):
            values = _values(parts)
            kept = _shrunk(values, _multiplicity(self.n)[:, None], self.radius)
            return parts * jnp.where(kept > 0, kept / jnp.where(kept > 0, values, 1), 0)[..., None]
        u, values, vt = svd(_joined(parts))
        kept = _shrunk(values, _multiplicity(self.n)[:, None], self.radius)
        return _parts(jnp.matmul(u * kept[..., None, :], vt, precision=jax.lax.Precision.HIGHEST))


class _Gap(eqx.Module):
    radius: Array
    n: int = eqx.field(static=True)

    def __call__(self, parts: Array, gradient: Array) -> Array:
        return _Inner(self.n)(gradient, parts) + self.radius * jnp.max(_values(gradient))


class _Inner(eqx.Module):
    """Inner product of the expanded matrices."""

    n: int = eqx.field(static=True)

    def __call__(self, a: Array, b: Array) -> Array:
        return jnp.sum(_multiplicity(self.n)[:, None, None] * a * b)


def _shrunk(values: Array, weights: Array, radius: Array) -> Array:
    """Projection of values >= 0 on ``sum weights * values <= radius``: ``max(values - theta, 0)``."""
    flat, weights = values.ravel(), jnp.broadcast_to(weights, values.shape).ravel().astype(values.dtype)
    order = jnp.argsort(-flat)
    top, shift = l1_shift(flat[order], radius, weights[order])
    return jnp.maximum(values - top - shift, 0)


def _multiplicity(n: int) -> Array:
    k = jnp.arange(n // 2 + 1)
    return jnp.where((k == 0) | (2 * k == n), 1, 2)


def _values(parts: Array) -> Array:
    """Singular values of every block, (K, min(T, R))."""
    if parts.shape[-2:] == (1, 1):
        return jnp.hypot(parts[0], parts[1])[..., 0]
    return singular_values(_joined(parts))


def _dot(multiplicity: Array, values: Array) -> Array:
    return jnp.sum(multiplicity[:, None] * values)


def _whole_spectrum(values: Array, n: int) -> Array:
    k = jnp.arange(n)
    return -jnp.sort(-values[jnp.minimum(k, n - k)].ravel())


def _columns(blocks: Array) -> Array:
    """(T, R, n) -> (T n, R): one column for each context orbit."""
    T, R, n = blocks.shape
    return blocks.transpose(0, 2, 1).reshape(T * n, R)


def _blocks(columns: Array, shape: tuple[int, int, int]) -> Array:
    T, R, n = shape
    return columns.reshape(T, n, R).transpose(0, 2, 1)


def _split(kernel: Array) -> Array:
    """Real kernels (T, R, n) -> real and imaginary parts of their Fourier blocks, (2, K, T, R)."""
    return _parts(jnp.moveaxis(jnp.fft.rfft(kernel, axis=-1), -1, 0))


def _parts(blocks: Array) -> Array:
    return jnp.stack([blocks.real, blocks.imag])


def _joined(parts: Array) -> Array:
    return jax.lax.complex(parts[0], parts[1])


def _kernel(parts: Array, n: int) -> Array:
    return jnp.fft.irfft(jnp.moveaxis(_joined(parts), 0, -1), n, axis=-1)

"""Which frequencies of a cyclic target the optimum uses, and at which budget each one enters."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxspec.checks import check_numbers
from jaxspec.peeled.checks import check_distributions, floating
from jaxspec.peeled.cyclic import solve_blocks
from jaxspec.peeled.logits import Limits

_RESOLUTION = 1e-6


def active_modes(z: Any, tol: float = 1e-9) -> Bool[Array, " K"]:
    """Frequencies ``k = 1..n//2`` with ``|z^_k| > tol max_k |z^_k|``.

    Args:
        z: kernel of logits, (n,).
        tol: relative; rounding of the inverse transform is about ``n eps``.

    Returns:
        One truth value a frequency.

    Raises:
        ValueError: z has not one axis, or a bad tolerance.

    Example:
        >>> import jax.numpy as jnp
        >>> active_modes(jnp.cos(2 * jnp.pi * jnp.arange(8) / 4), 1e-6)
        Array([False,  True, False, False], dtype=bool)
    """
    z = floating("z", z)
    check_numbers(0, tol=tol)
    if z.ndim != 1:
        raise ValueError(f"z has shape {z.shape}; expected one axis")
    return _above(jnp.abs(jnp.fft.rfft(z)), tol)


def mode_onsets(kernel: Any, budgets: Any, *, max_iter: int = 20000) -> Float[Array, " K"]:
    """First budget E at which each frequency ``k = 1..n//2`` of the optimum is not 0.

    Bracketed on the grid, then bisected to 1e-6 on the exact zeros of the projection, at a gap of 1e-12 n E. A
    frequency that is on only between two points of the grid is missed. Needs float64.

    Args:
        kernel: target on the cycle, (n,), of sum 1.
        budgets: ascending grid of E > 0, (L,).
        max_iter: iterations at most for each solution (static).

    Returns:
        (n//2,): 0 for the frequency that is on at every budget (the largest ``|p^_k|``), infinity where none of the
        grid has it.

    Raises:
        ValueError: a bad kernel, a grid that does not ascend, or float32.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from jaxspec.peeled import geometric_kernel
        >>> with jax.enable_x64(True):
        ...     print(mode_onsets(geometric_kernel(5, 1.0), np.linspace(0.1, 1.5, 8)).round(4))
        [0.     0.6668]
    """
    kernel = floating("kernel", kernel)
    if kernel.dtype != jnp.float64:
        raise ValueError(f"kernel has dtype {kernel.dtype}; expected float64: exact zeros need a gap of 1e-12")
    if kernel.ndim != 1:
        raise ValueError(f"kernel has shape {kernel.shape}; expected one axis")
    check_distributions("kernel", kernel[:, None])
    grid = np.asarray(budgets, float)
    if grid.ndim != 1 or grid.size == 0 or not np.all(np.diff(grid, prepend=0.0) > 0) or not np.isfinite(grid[-1]):
        raise ValueError(f"budgets is {budgets}; expected an ascending grid of finite numbers > 0")
    steps = int(np.ceil(np.log2(max(np.diff(grid, prepend=0.0).max() / _RESOLUTION, 1))))
    return _onsets(kernel, jnp.asarray(grid), steps, Limits(max_iter, 10))


@eqx.filter_jit
def _onsets(kernel: Array, grid: Array, steps: int, limits: Limits) -> Array:
    def modes(budget: Array) -> Array:
        return _modes(kernel, budget, limits)

    on = jax.vmap(modes)(grid)
    first = jnp.argmax(on, axis=0)
    high = grid[first]
    low = jnp.where(first > 0, grid[first - 1], 0)

    def bisect(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        found = jnp.diagonal(jax.vmap(modes)(middle))
        return jnp.where(found, low, middle), jnp.where(found, middle, high)

    low, high = jax.lax.fori_loop(0, steps, bisect, (low, high))
    return jnp.where(jnp.any(on, axis=0), jnp.where(low > 0, high, 0), jnp.inf)


def _modes(kernel: Array, budget: Array, limits: Limits) -> Array:
    blocks, tol = kernel[None, None], 1e-12 * kernel.size * budget
    start = jnp.zeros_like(blocks)
    _, image = solve_blocks(blocks, budget, jnp.ones(1, kernel.dtype), start, tol, limits)
    # Without an active budget the zeros are those of a logarithm's transform, up to rounding.
    return _above(jnp.abs(image[:, 0, 0]), 100 * kernel.size * jnp.finfo(kernel.dtype).eps)


def _above(magnitudes: Array, tol: Any) -> Array:
    return magnitudes[1:] > tol * jnp.max(magnitudes)

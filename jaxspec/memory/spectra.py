"""Singular values of a memory, compared with the quarter circle that theory predicts for the optimal one."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxspec.checks import finite
from jaxspec.linalg import singular_values


class Spectrum(NamedTuple):
    """Spectrum of a memory of size ``||W||_F = d``.

    Attributes:
        s: singular values over ``sqrt d``, descending.
        m2: mean of ``s^2``: 1, or 0 for W = 0.
        m4: mean of ``s^4``; 2 for the quarter circle.
        ks: largest distance between the distribution function of ``s`` and that of the quarter circle.
    """

    s: Float[Array, " d"]
    m2: Float[Array, ""]
    m4: Float[Array, ""]
    ks: Float[Array, ""]


def spectrum(W: Num[Array, "rows columns"]) -> Spectrum:
    """Singular values of the memory scaled to ``||W||_F = d``, and how far they are from the quarter circle.

    Args:
        W: square; any scale.

    Returns:
        The spectrum.

    Raises:
        ValueError: W is not square, or not finite (under jit: `equinox.error_if`).

    Example:
        >>> import jax.numpy as jnp
        >>> spectrum(3 * jnp.eye(2)).s
        Array([1., 1.], dtype=float32)
    """
    if jnp.ndim(W) != 2 or W.shape[0] != W.shape[1] or W.shape[0] < 1:
        raise ValueError(f"W has shape {jnp.shape(W)}; expected (d, d) with d >= 1")
    W = finite("W", jnp.asarray(W, jnp.promote_types(W.dtype, jnp.float32)))
    return _statistics(singular_values(W))


@partial(jax.jit, inline=True)
def _statistics(s):
    s = s / jnp.where(s[0] > 0, s[0], 1)  # squares neither overflow nor vanish
    mean_square = jnp.mean(s * s)
    s = s / jnp.sqrt(jnp.where(mean_square > 0, mean_square, 1))
    # Distances just before and just after each step of the empirical distribution function.
    steps = jnp.arange(len(s), 0, -1, dtype=s.dtype)
    cdf = _quarter_circle_cdf(s)
    ks = jnp.maximum(jnp.max(jnp.abs(steps / len(s) - cdf)), jnp.max(jnp.abs((steps - 1) / len(s) - cdf)))
    return Spectrum(s, jnp.mean(s**2), jnp.mean(s**4), ks)


def _quarter_circle_cdf(s):
    s = jnp.clip(s, 0, 2)
    return (s * jnp.sqrt((2 - s) * (2 + s)) / 2 + 2 * jnp.arcsin(s / 2)) / jnp.pi

"""Quantiles and tail probabilities of Student's t, for degrees of freedom that need not be whole."""

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc
from jaxtyping import Array, Float

BISECTIONS = 60


def two_sided_quantile(level: Float[Array, "*s"], df: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The t with ``P(|T| <= t) = level``; infinite below one degree of freedom.

    Args:
        level: probability, in (0, 1).
        df: degrees of freedom.

    Returns:
        The quantiles.
    """
    enough = df >= 1
    df = jnp.where(enough, df, 1)

    def halve(_: Array, bracket: tuple) -> tuple:
        low, high = bracket
        middle = 0.5 * (low + high)
        below = inside(jnp.exp(middle), df) < level
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    # In logarithms: one degree of freedom at level 1 - 1e-6 already has its quantile at 6e5.
    ends = jnp.full_like(df, -15.0), jnp.full_like(df, 25.0)
    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, ends)
    return jnp.where(enough, jnp.exp(0.5 * (low + high)), jnp.inf)


def inside(t: Float[Array, "*s"], df: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """``P(|T| <= t) = I_{t^2 / (df + t^2)}(1/2, df/2)``.

    Args:
        t: not negative.
        df: degrees of freedom.

    Returns:
        Probabilities.
    """
    square = t**2
    return betainc(0.5, 0.5 * df, square / (df + square))


def outside(t: Float[Array, "*s"], df: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """``P(|T| > t)``, without cancellation.

    Args:
        t: not negative.
        df: degrees of freedom.

    Returns:
        Probabilities.
    """
    return betainc(0.5 * df, 0.5, df / (df + t**2))

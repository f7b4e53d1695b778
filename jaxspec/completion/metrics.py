"""Errors of a completed tensor."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from jaxspec.linalg.scaling import power_of_two_scale
from jaxspec.solvers.stopping import safe_ratio


def nmse(
    x: Float[Array, "*shape"], truth: Float[Array, "*shape"], where: Bool[Array, "*shape"] | None = None
) -> Float[Array, ""]:
    """Normalised mean square error ``||x - truth||_F^2 / ||truth||_F^2``.

    Args:
        x: completed tensor.
        truth: true tensor; NaN allowed outside ``where``.
        where: entries that count, in both norms; None: all. ``where=~mask`` gives the held-out form.

    Returns:
        The error; 0 if both norms are 0.
    """
    where = jnp.ones(x.shape, bool) if where is None else where
    truth = jnp.where(where, truth, 0)
    error = jnp.where(where, x, 0) - truth
    # Both norms are divided by the largest entry, so that squares neither overflow nor vanish.
    scale = jnp.max(jnp.abs(truth), initial=0)
    scale = jnp.where(scale > 0, scale, 1)
    return safe_ratio(jnp.sum((error / scale) ** 2), jnp.sum((truth / scale) ** 2))


def rmse(
    x: Float[Array, "*shape"], truth: Float[Array, "*shape"], weight: Shaped[Array, "*shape"] | None = None
) -> Float[Array, ""]:
    """Root mean square error ``sqrt(sum w (x - truth)^2 / sum w)``, in the units of the data.

    Args:
        x: completed tensor.
        truth: true tensor; NaN allowed where the weight is 0.
        weight: >= 0, or a mask; None: 1.

    Returns:
        The error; 0 if no entry counts.
    """
    weight = jnp.ones(x.shape, x.dtype) if weight is None else weight.astype(x.dtype)
    difference = jnp.where(weight > 0, x - jnp.where(weight > 0, truth, 0), 0)
    # Divided by the largest first, so that squares neither overflow nor vanish.
    scale = power_of_two_scale(difference, axis=None)
    return scale * jnp.sqrt(safe_ratio(jnp.sum(weight * (difference / scale) ** 2), jnp.sum(weight)))


def psnr(
    x: Float[Array, "*shape"],
    truth: Float[Array, "*shape"],
    peak: float = 1.0,
    where: Bool[Array, "*shape"] | None = None,
) -> Float[Array, ""]:
    """Peak signal-to-noise ratio in dB, ``10 log10(peak^2 / mean square error)``.

    Args:
        x: completed tensor.
        truth: true tensor; NaN allowed outside ``where``.
        peak: largest possible value of an entry.
        where: entries that count; None: all.

    Returns:
        The ratio in decibel; infinity for a perfect reconstruction, and if no entry counts.
    """
    return 20 * jnp.log10(peak / rmse(x, truth, where))


class TruthError(eqx.Module):
    """Per-iteration metric: NMSE to a known truth, in the units that the solver works in.

    Attributes:
        truth: true tensor, divided by the solver's scale.
    """

    truth: Array

    def __call__(self, x: Array) -> dict[str, Array]:
        """``{"nmse": ...}`` of the iterate."""
        return {"nmse": nmse(x, self.truth)}

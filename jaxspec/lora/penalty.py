"""A price on what an adapter does to the residual stream, where no projection of its factors holds a direction."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxspec.linalg.scaling import compute_dtype
from jaxspec.lora.directions import basis_of


def stream_penalty(
    h: Float[Array, "*batch d"], pretrained: Float[Array, "..."], directions: ArrayLike | None = None
) -> Float[Array, ""]:
    """``mean |U^T (h - h_0)|^2``, or ``mean |h - h_0|^2``, over all axes but the last.

    Added to the loss with a weight, on prompts that need no labels. Measured with adapters on all matrices of a small
    decoder: along the factor found it removes nearly all of the drift, without directions all of it, with the task
    kept, where projections leave a fifth to two fifths (documentation of GRASP). The prompts were those of pretraining.

    Args:
        h: stream of the adapted model, at any number of residual points, prompts and tokens.
        pretrained: that of the model without adapter at the same places; held fixed.
        directions: columns (d, k), or one (d,); orthonormal if traced. None: the whole stream.

    Returns:
        The mean, in float32 or wider.

    Raises:
        ValueError: streams of different shapes, directions of another width, or not finite.
        TypeError: a stream or directions that are not real floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> stream_penalty(jnp.array([[1.0, 2.0]]), jnp.zeros((1, 2)), jnp.array([1.0, 0.0]))
        Array(1., dtype=float32)
    """
    if h.shape != pretrained.shape:
        raise ValueError(f"pretrained has shape {pretrained.shape}; expected that of h, {h.shape}")
    dtype = jnp.promote_types(compute_dtype(h, "h"), compute_dtype(pretrained, "pretrained"))
    moved = h.astype(dtype) - jax.lax.stop_gradient(pretrained).astype(dtype)
    if directions is not None:
        moved = jnp.matmul(moved, basis_of(directions, h.shape[-1]), precision="highest")
    return jnp.mean(jnp.sum(moved * moved, axis=-1))

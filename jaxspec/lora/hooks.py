r"""What can be done to a residual stream ``h`` along directions ``U``, as pure functions of ``h``.

=====================  ======================  ======================  ==========================================
function               value                   cotangent               used in training / at inference it is
=====================  ======================  ======================  ==========================================
`block_cotangent`      ``h``                   ``(I - U U^T) g``       GRASP on activations / nothing
`ablate`               ``(I - U U^T) h``       ``(I - U U^T) g``       CAFT / inference ablation
`steer`                ``h + c v``             ``g``                   preventative steering / additive steering
=====================  ======================  ======================  ==========================================

Directions that are known when the model is traced are checked and made orthonormal; directions that are traced
themselves must be orthonormal (`orthonormal_directions` makes them so, once, outside the step). `block_hook`,
`caft_hook` and `preventative_hook` carry one weight per residual point, so that a sweep over layers and coefficients
is a `vmap`.

Reference: concept ablation fine-tuning, arXiv 2507.16795; preventative steering, arXiv 2507.21509. The cotangent
projection is a reconstruction of "gradient projection" in arXiv 2605.27676, whose text was not available.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxspec.linalg.scaling import compute_dtype
from jaxspec.lora.directions import basis_of, orthonormal_directions, without

Hook = Callable[[Float[Array, "*batch d"], int | Int[Array, ""]], Float[Array, "*batch d"]]


def block_cotangent(h: Float[Array, "*batch d"], directions: ArrayLike) -> Float[Array, "*batch d"]:
    """``h``, bit for bit, whose cotangent loses its part along the directions: ``g -> (I - U U^T) g``.

    The forward pass keeps what the pretrained model does along ``U``; the backward pass gives nobody upstream an
    incentive to move it. It removes the incentive, it does not forbid the movement. The directions get no gradient.
    Reverse mode only: `jax.jvp` raises.

    Args:
        h: residual stream.
        directions: columns (d, k), or one (d,); orthonormal if traced.

    Returns:
        ``h``.

    Raises:
        ValueError: directions of another width, or not finite.
        TypeError: directions that are not real floating point.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> u = jnp.array([1.0, 0.0, 0.0])
        >>> jax.grad(lambda h: block_cotangent(h, u).sum())(jnp.zeros(3))
        Array([0., 1., 1.], dtype=float32)
    """
    basis = basis_of(directions, h.shape[-1])
    return _blocked(h, basis, jnp.ones((), basis.dtype))


def ablate(h: Float[Array, "*batch d"], directions: ArrayLike) -> Float[Array, "*batch d"]:
    """``(I - U U^T) h``: the stream without its part along the directions, computed in float32 or wider.

    Args:
        h: residual stream.
        directions: columns (d, k), or one (d,); orthonormal if traced.

    Returns:
        The rest, in the dtype of ``h``.

    Raises:
        ValueError: directions of another width, or not finite.
        TypeError: directions that are not real floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> ablate(jnp.array([2.0, 3.0]), jnp.array([1.0, 0.0]))
        Array([0., 3.], dtype=float32)
    """
    return without(h, basis_of(directions, h.shape[-1]))


def steer(h: Float[Array, "*batch d"], vector: Float[Array, " width"], coef: ArrayLike) -> Float[Array, "*batch d"]:
    """``h + coef v``.

    Args:
        h: residual stream.
        vector: of its width, in its units.
        coef: a number; negative coefficients steer away.

    Returns:
        The steered stream, in the dtype of ``h``.

    Raises:
        ValueError: a vector of another width.

    Example:
        >>> import jax.numpy as jnp
        >>> steer(jnp.zeros(2), jnp.array([1.0, 0.0]), -0.5)
        Array([-0.5,  0. ], dtype=float32)
    """
    if vector.shape != h.shape[-1:]:
        raise ValueError(f"vector has shape {vector.shape}; expected {h.shape[-1:]}, the width of h")
    dtype = jnp.promote_types(compute_dtype(h, "h"), vector.dtype)
    return (h.astype(dtype) + jnp.asarray(coef).astype(dtype) * vector.astype(dtype)).astype(h.dtype)


def block_hook(directions: ArrayLike, points: Float[Array, " n"] | None = None) -> Hook:
    """`block_cotangent` at chosen residual points, as ``hook(h, point) -> h``.

    Args:
        directions: columns (d, k), or one (d,).
        points: a weight for every residual point: 1 where the cotangent is blocked, 0 where it passes, between them
            that share of it. None: blocked everywhere.

    Returns:
        A hook: a pytree, so that it may be an argument of a compiled function.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> hook = block_hook(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
        >>> [jax.grad(lambda h: hook(h, point).sum())(jnp.zeros(2)).tolist() for point in (0, 1)]
        [[1.0, 1.0], [0.0, 1.0]]
    """
    return Partial(_block_at, orthonormal_directions(directions), points)


def caft_hook(directions: ArrayLike, points: Float[Array, " n"] | None = None) -> Hook:
    """`ablate` at chosen residual points, for use in training only: concept ablation fine-tuning.

    Args:
        directions: columns (d, k), or one (d,).
        points: a weight for every residual point: 1 where ``U U^T h`` is taken away, 0 where it stays. None: taken away
            everywhere.

    Returns:
        A hook ``hook(h, point) -> h``, a pytree.

    Example:
        >>> import jax.numpy as jnp
        >>> hook = caft_hook(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
        >>> [hook(jnp.array([2.0, 3.0]), point).tolist() for point in (0, 1)]
        [[2.0, 3.0], [0.0, 3.0]]
    """
    return Partial(_ablate_at, orthonormal_directions(directions), points)


def preventative_hook(
    vector: Float[Array, " width"], coef: ArrayLike, points: Float[Array, " n"] | None = None
) -> Hook:
    """`steer` at chosen residual points, for use in training only: the shift is there already and need not be learned.

    Args:
        vector: added, of the stream's width.
        coef: its coefficient.
        points: a weight for every residual point, by which the coefficient is multiplied. None: added everywhere.

    Returns:
        A hook ``hook(h, point) -> h``, a pytree.

    Example:
        >>> import jax.numpy as jnp
        >>> preventative_hook(jnp.array([1.0, 0.0]), 2.0)(jnp.zeros(2), 0)
        Array([2., 0.], dtype=float32)
    """
    return Partial(_steer_at, vector, jnp.asarray(coef, compute_dtype(vector, "vector")), points)


@jax.custom_vjp
def _blocked(h, basis, share):
    return h


def _blocked_forward(h, basis, share):
    return h, (basis, share)


def _blocked_backward(kept, cotangent):
    basis, share = map(jnp.asarray, kept)
    return without(cotangent, basis, share), jnp.zeros_like(basis), jnp.zeros_like(share)


_blocked.defvjp(_blocked_forward, _blocked_backward)


def _share(points, point, dtype):
    return jnp.ones((), dtype) if points is None else points[point].astype(dtype)


def _block_at(basis, points, h, point):
    return _blocked(h, basis, _share(points, point, basis.dtype))


def _ablate_at(basis, points, h, point):
    return without(h, basis, _share(points, point, basis.dtype))


def _steer_at(vector, coef, points, h, point):
    return steer(h, vector, coef * _share(points, point, coef.dtype))

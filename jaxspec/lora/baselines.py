r"""What can be done to an adapter after training: cut its spectrum, project it, scale it; and images of directions.

All of it is done to the factors; ``B A`` is never formed. With ``B = Q_b R_b``, ``A^T = Q_a R_a`` and the small
``R_b R_a^T = X S Y^T``, the singular value decomposition of ``B A`` is ``(Q_b X) S (Q_a Y)^T``. The scale of an adapter
multiplies all singular values and is not needed.

Reference: truncation after training, arXiv 2606.07596.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxspec.linalg import decompositions
from jaxspec.linalg.scaling import compute_dtype, power_of_two_scale
from jaxspec.lora.adapters import Adapter, Scale, checked_factors, scale_of
from jaxspec.lora.directions import orthonormal_directions, without
from jaxspec.lora.roles import DEFAULT_ROLES, Roles, resolve_roles

Directions = ArrayLike | Mapping[str, ArrayLike]


def truncate_delta(
    adapter: Adapter, *, keep: int | None = None, drop: int | None = None
) -> dict[str, dict[str, Array]]:
    """The adapter with the ``keep`` largest singular values of each ``B A`` alone, or without the ``drop`` largest.

    Args:
        adapter: ``{module: {"a": (*batch, r, in), "b": (*batch, out, r)}}``.
        keep: at least 1; modules of a lower rank are kept whole.
        drop: 0 or more; where it reaches the rank, the module becomes zero. Give this or ``keep``.

    Returns:
        An adapter of rank ``min(keep, r)`` or ``max(r - drop, 1)``, in the dtypes of the given one; both factors carry
        the square roots of the singular values.

    Raises:
        ValueError: both or neither of the two, out of range, or factors that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> leaf = {"a": jnp.eye(2), "b": jnp.diag(jnp.array([3.0, 1.0]))}
        >>> cut = truncate_delta({"down": leaf}, drop=1)["down"]
        >>> cut["a"].shape, float((cut["b"] @ cut["a"])[1, 1])
        ((1, 2), 1.0)
    """
    if (keep is None) == (drop is None):
        raise ValueError(f"keep is {keep} and drop is {drop}; expected exactly one of them")
    if (keep is not None and keep < 1) or (drop is not None and drop < 0):
        raise ValueError(f"keep is {keep} and drop is {drop}; expected keep >= 1, drop >= 0")
    return {module: _truncated(*checked_factors(module, leaf), keep, drop) for module, leaf in adapter.items()}


def project_delta(
    adapter: Adapter,
    directions: Directions,
    roles: Roles = DEFAULT_ROLES,
    *,
    default_role: str | None = None,
) -> dict[str, dict[str, Array]]:
    r"""The adapter without its part along directions: ``B <- (I - U U^T) B`` of writers, ``A <- A (I - U U^T)`` else.

    Args:
        adapter: ``{module: {"a": (*batch, r, in), "b": (*batch, out, r)}}``.
        directions: columns (d, k), or a mapping from modules to columns of their own (with the gain of a normalisation
            folded in, or `image_directions` with role ``"writes"``); modules that the mapping lacks stay as they are.
        roles: of the modules, as in `resolve_roles`.
        default_role: for modules without a role.

    Returns:
        An adapter of the same shapes and dtypes.

    Raises:
        ValueError: modules without a role, no module that is projected, or directions whose length is not the side's.

    Example:
        >>> import jax.numpy as jnp
        >>> leaf = {"a": jnp.ones((1, 2)), "b": jnp.array([[3.0], [2.0]])}
        >>> project_delta({"mlp.down": leaf}, jnp.array([1.0, 0.0]))["mlp.down"]["b"]
        Array([[0.],
               [2.]], dtype=float32)
    """
    found = resolve_roles(list(adapter), roles, default_role=default_role)
    bases = prepared(directions, adapter)
    chosen = {module for module in bases if found[module] != "none"}
    if not chosen:
        raise ValueError(f"roles select no module to project among {', '.join(bases) or 'none'}")
    return {m: _projected(m, leaf, bases[m], found[m]) if m in chosen else dict(leaf) for m, leaf in adapter.items()}


def scale_delta(adapter: Adapter, c: Scale) -> dict[str, dict[str, Array]]:
    """The adapter of ``c B A``: ``b`` multiplied by ``c``.

    Args:
        adapter: ``{module: {"a": ..., "b": ...}}``.
        c: a number, or a mapping from modules to numbers.

    Returns:
        An adapter of the same shapes and dtypes.

    Raises:
        ValueError: the mapping lacks a module.

    Example:
        >>> import jax.numpy as jnp
        >>> scale_delta({"down": {"a": jnp.ones((1, 2)), "b": jnp.ones((2, 1))}}, 0.5)["down"]["b"]
        Array([[0.5],
               [0.5]], dtype=float32)
    """
    scaled = {}
    for module, leaf in adapter.items():
        a, b = checked_factors(module, leaf)
        factor = jnp.asarray(scale_of(c, module)).astype(compute_dtype(b, "b"))
        scaled[module] = {"a": a, "b": (factor * b).astype(b.dtype)}
    return scaled


def image_directions(
    reader: Float[Array, "out d"],
    directions: ArrayLike,
    writer: Float[Array, "width hidden"] | None = None,
) -> Float[Array, "out k"]:
    r"""Where a frozen reader puts the directions, and what the writer behind it puts back: ``orth[W U, W_next^T U]``.

    An adapter of the reader with ``B <- (I - Q Q^T) B`` can neither imitate what the pretrained module makes of ``U``
    nor feed what the next module writes along ``U``. Use it in `project_delta`, `init` or `jaxspec.optim.grasp` as the
    directions of that module's ``b``, with role ``"writes"``. A reconstruction, as is its use.

    Args:
        reader: ``W``, (out, d), in PEFT orientation; multiply its columns by the gain of a normalisation before it.
        directions: columns (d, k), or one (d,).
        writer: ``W_next``, (d, out), behind value and up projections; None for queries, keys and gates.

    Returns:
        Orthonormal columns, at most k or 2 k.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> image_directions(jnp.diag(jnp.array([2.0, 5.0])), jnp.array([1.0, 0.0]))
        Array([[1.],
               [0.]], dtype=float32)
    """
    u = orthonormal_directions(directions, width=reader.shape[1])
    images = [jnp.matmul(reader.astype(u.dtype), u, precision="highest")]
    if writer is not None:
        if writer.shape != reader.shape[::-1]:
            raise ValueError(
                f"writer has shape {writer.shape}; expected {reader.shape[::-1]}, that of the reader turned"
            )
        images.append(jnp.matmul(writer.T.astype(u.dtype), u, precision="highest"))
    columns = jnp.concatenate(images, axis=1)
    if columns.shape[1] > columns.shape[0]:
        raise ValueError(f"directions have {columns.shape[1]} images in a space of {columns.shape[0]}; expected fewer")
    return orthonormal_directions(columns, name="images of directions")


def prepared(directions: Directions, modules: Mapping[str, object]) -> dict[str, Float[Array, "d k"]]:
    """Orthonormal directions by module.

    Args:
        directions: columns for all modules, or a mapping from modules to columns.
        modules: the modules that there are.

    Returns:
        Module to basis.

    Raises:
        ValueError: the mapping names a module that there is not, or columns that cannot be.
    """
    if not isinstance(directions, Mapping):
        return dict.fromkeys(modules, orthonormal_directions(directions))
    unknown = [module for module in directions if module not in modules]
    if unknown:
        raise ValueError(f"directions names {', '.join(unknown[:5])}; the adapter has {', '.join(list(modules)[:20])}")
    return {module: orthonormal_directions(u, name=f"directions of {module}") for module, u in directions.items()}


def check_side(module: str, side: str, length: int, basis: Float[Array, "d k"]) -> None:
    """Raises `ValueError` unless a side of a module is as long as the directions.

    Args:
        module: its path.
        side: ``"out"`` or ``"in"``.
        length: of the side.
        basis: the directions.
    """
    if length != basis.shape[0]:
        raise ValueError(f"{module} has {side} = {length}; directions of shape {basis.shape} expect {basis.shape[0]}")


def _projected(module, leaf, basis, role):
    a, b = checked_factors(module, leaf)
    if role in ("writes", "both"):
        check_side(module, "out", b.shape[-2], basis)
        b = without(b.mT, basis).mT
    if role in ("reads", "both"):
        check_side(module, "in", a.shape[-1], basis)
        a = without(a, basis)
    return {"a": a, "b": b}


@jax.jit(static_argnames=("keep", "drop"))
def _truncated(a, b, keep, drop):
    dtype = jnp.promote_types(compute_dtype(a, "a"), compute_dtype(b, "b"))
    scales = [power_of_two_scale(x, keepdims=True).astype(dtype) for x in (a, b)]
    q_a, r_a = decompositions.qr(a.astype(dtype).mT / scales[0])
    q_b, r_b = decompositions.qr(b.astype(dtype) / scales[1], after=r_a)
    x, s, yt = decompositions.svd(jnp.matmul(r_b, r_a.mT, precision="highest"))
    count = s.shape[-1]
    chosen = slice(0, keep) if drop is None else slice(min(drop, count - 1), count)
    root = jnp.sqrt(s) if drop is None or drop < count else jnp.zeros_like(s)
    # Square roots of the scales apart: their product may leave the range that each factor has.
    root = root[..., None, :] * jnp.sqrt(scales[0]) * jnp.sqrt(scales[1])
    new_b = jnp.matmul(q_b, x[..., chosen], precision="highest") * root[..., chosen]
    new_a = jnp.matmul(q_a, yt.mT[..., chosen], precision="highest") * root[..., chosen]
    return {"a": new_a.mT.astype(a.dtype), "b": new_b.astype(b.dtype)}

r"""How much an adapter relies on directions, and which of several runs are worth having."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxspec.checks import finite
from jaxspec.linalg import decompositions
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import compute_dtype, power_of_two_scale, safe_divide
from jaxspec.lora.adapters import Scale, checked_factors, scale_of
from jaxspec.lora.baselines import Directions, check_side, prepared
from jaxspec.lora.roles import DEFAULT_ROLES, Roles, resolve_roles


class Reliance(NamedTuple):
    r"""What one module does along directions ``U``; ``L(W)`` is ``U^T W`` of a writer, ``W U`` of a reader.

    Attributes:
        share: ``||L(dW)||_F / ||dW||_F``, in [0, 1] for writers and readers (up to sqrt(2) for both); 0 where ``dW`` is
            zero.
        change: ``||L(dW)||_F``.
        pretrained: ``||L(W_0)||_F``, or None without base weights.
        preserved_error: ``||L(dW)||_F / ||L(W_0)||_F``, the relative change of what the base model does there, infinite
            where it does nothing; or None.
    """

    share: Float[Array, "*batch"]
    change: Float[Array, "*batch"]
    pretrained: Float[Array, "*batch"] | None
    preserved_error: Float[Array, "*batch"] | None


class Tradeoff(NamedTuple):
    """Runs compared, none of which is summed up in one number.

    Attributes:
        rows: as given, (n, 2) or (n, 3): task and drift, or task, drift and genuine signal.
        front: rows that no other row beats (at least as good everywhere, better somewhere), (n,).
        hypervolume: of what the rows dominate, between them and the reference, in the product of their units.
    """

    rows: Float[Array, "n m"]
    front: Bool[Array, " n"]
    hypervolume: Float[Array, ""]


def reliance(
    changes: Mapping[str, Any],
    directions: Directions,
    roles: Roles = DEFAULT_ROLES,
    *,
    scale: Scale = 1.0,
    base: Mapping[str, Array] | None = None,
    default_role: str | None = None,
) -> dict[str, Reliance]:
    """How much of every change writes along directions, or reads them.

    Direct writes and reads only: what frozen modules make of a change elsewhere is not seen.

    Args:
        changes: module to ``{"a": ..., "b": ...}`` or to a dense change (*batch, out, in).
        directions: columns (d, k), or a mapping from modules to columns of their own; modules that it lacks are left
            out.
        roles: of the modules, as in `resolve_roles`; those with role ``"none"`` are left out.
        scale: of the adapter; dense changes are multiplied as well.
        base: module to frozen weight (*batch, out, in), as from `base_weights`, for modules where it is known.
        default_role: for modules without a role.

    Returns:
        Module to `Reliance`.

    Raises:
        ValueError: modules without a role, or lengths that differ from the directions'.

    Example:
        >>> import jax.numpy as jnp
        >>> leaf = {"a": jnp.array([[1.0, 0.0]]), "b": jnp.array([[3.0], [4.0]])}
        >>> float(reliance({"mlp.down": leaf}, jnp.array([1.0, 0.0]))["mlp.down"].share)
        0.6
    """
    found = resolve_roles(list(changes), roles, default_role=default_role)
    bases = prepared(directions, changes)
    report = {}
    for module in (module for module in bases if found[module] != "none"):
        b, a = _factored(module, changes[module])
        weight = None if base is None else base.get(module)
        if weight is not None and weight.shape != (*b.shape[:-1], a.shape[-1]):
            raise ValueError(f"base of {module} has shape {weight.shape}; expected {(*b.shape[:-1], a.shape[-1])}")
        for side, length in (("out", b.shape[-2]), ("in", a.shape[-1])):
            if found[module] in ("both", {"out": "writes", "in": "reads"}[side]):
                check_side(module, side, length, bases[module])
        report[module] = _reliance(b, a, bases[module], found[module], jnp.asarray(scale_of(scale, module)), weight)
    return report


def tradeoff(rows: Float[Array, "n m"], *, reference: tuple[float, ...] | None = None) -> Tradeoff:
    """Front and dominated volume of runs with (task, drift) or (task, drift, genuine signal).

    Task and genuine signal are better the larger they are, drift the smaller. Ties are all on the front.

    Args:
        rows: one run per row, two or three columns.
        reference: the worst acceptable row; what lies beyond it in a column adds no volume. Default ``(0, 1)`` or
            ``(0, 1, 0)``, for shares.

    Returns:
        `Tradeoff`. It may be mapped over resampled rows.

    Raises:
        ValueError: another number of columns, no row, or numbers that are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> found = tradeoff(jnp.array([[1.0, 0.5], [0.5, 0.0], [0.4, 0.1]]))
        >>> found.front.tolist(), float(found.hypervolume)
        ([True, True, False], 0.75)
    """
    if rows.ndim != 2 or rows.shape[1] not in (2, 3) or rows.shape[0] == 0:
        raise ValueError(f"rows has shape {rows.shape}; expected (n, 2) or (n, 3), n >= 1")
    worst = ((0.0, 1.0, 0.0)[: rows.shape[1]]) if reference is None else reference
    if len(worst) != rows.shape[1]:
        raise ValueError(f"reference is {worst}; expected {rows.shape[1]} numbers, one per column")
    rows = rows.astype(compute_dtype(rows, "rows"))
    rows = finite("rows", rows)
    return _tradeoff(rows, jnp.asarray(worst, rows.dtype))


@partial(jax.jit, inline=True)
def _tradeoff(rows, worst):
    sign = np.array([1.0, -1.0, 1.0], rows.dtype)[: rows.shape[1]]
    gains = rows * sign
    beaten = jnp.all(gains[None] >= gains[:, None], axis=2) & jnp.any(gains[None] > gains[:, None], axis=2)
    above = jnp.maximum(gains - worst * sign, 0)
    return Tradeoff(rows, ~jnp.any(beaten, axis=1), _hypervolume(above))


def _factored(module, change):
    """A change as ``b a``; a dense one with the identity as ``a``."""
    if isinstance(change, Mapping):
        a, b = checked_factors(module, change)
    else:
        b = jnp.asarray(change)
        if b.ndim < 2:
            raise ValueError(f"{module} has shape {b.shape}; expected (*batch, out, in) or a mapping with 'a' and 'b'")
        a = jnp.broadcast_to(jnp.eye(b.shape[-1], dtype=b.dtype), (*b.shape[:-2], b.shape[-1], b.shape[-1]))
    dtype = jnp.promote_types(compute_dtype(a, module), compute_dtype(b, module))
    return b.astype(dtype), a.astype(dtype)


@jax.jit(static_argnames=("role",))
def _reliance(b, a, basis, role, scale, weight):
    # Powers of two are exact, and squares of the scaled factors do not leave the range.
    sizes = power_of_two_scale(b) * power_of_two_scale(a)
    b, a = (x / power_of_two_scale(x, keepdims=True) for x in (b, a))
    _, triangle = decompositions.qr(a.mT)
    whole = _norm(_matmul(b, triangle.mT))
    along = []
    if role in ("writes", "both"):
        along.append(_norm(_matmul(_matmul(basis.T, b), triangle.mT)))
    if role in ("reads", "both"):
        along.append(_norm(_matmul(b, _matmul(a, basis))))
    part = jnp.sqrt(sum(x**2 for x in along))
    change = part * sizes * jnp.abs(scale).astype(part.dtype)
    share = safe_divide(part, whole)
    if weight is None:
        return Reliance(share, change, None, None)
    w = weight.astype(part.dtype)
    sides = [_matmul(basis.T, w)] if role in ("writes", "both") else []
    sides += [_matmul(w, basis)] if role in ("reads", "both") else []
    pretrained = jnp.sqrt(sum(_norm(x) ** 2 for x in sides))
    error = safe_divide(change, pretrained, jnp.inf)
    return Reliance(share, change, pretrained, jnp.where(change > 0, error, 0))


def _hypervolume(above):
    """Volume of the union of boxes from the origin to each row.

    In the plane the union under (x_i, y_i) has height ``max {y_i : x_i >= x}`` at x. In space the rows are taken in the
    order of falling z: between two values of z the section is the union of the rows so far.
    """
    x, y = above[:, 0], above[:, 1]
    z = above[:, 2] if above.shape[1] == 3 else jnp.ones_like(x)
    order = jnp.argsort(-z)
    x, y, z = x[order], y[order], z[order]
    grid = jnp.sort(x)
    widths = jnp.diff(grid, prepend=0.0)
    heights = jnp.where(x[:, None] >= grid[None], y[:, None], 0)
    areas = matmul(jax.lax.cummax(heights, axis=0), widths)
    return jnp.sum(areas * (z - jnp.append(z[1:], 0.0)))


def _norm(x):
    return jnp.sqrt(jnp.sum(x * x, axis=(-2, -1)))


def _matmul(x, y):
    return matmul(x, y.astype(x.dtype))

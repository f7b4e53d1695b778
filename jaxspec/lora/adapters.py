r"""Low-rank adapters ``delta W = s B A`` on any pytree of parameters: made, applied, merged and taken out again.

An adapter is a plain dict ``{module: {"a": (*batch, r, in), "b": (*batch, out, r)}}`` in PEFT orientation, whatever
the layout of the parameters (see `jaxspec.lora.layouts`). Leading axes are stacked layers or experts. The scale ``s``
is an argument of its own everywhere: one number, or a mapping from modules to numbers.

Reference: Hu et al., arXiv 2106.09685; ``alpha / sqrt(r)``: Kalajdzievski, arXiv 2312.03732.
"""

import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PyTree

from jaxspec.linalg.scaling import compute_dtype
from jaxspec.lora.config import LoraConfig
from jaxspec.lora.directions import orthonormal_directions, without
from jaxspec.lora.layouts import (
    Layout,
    as_parameter,
    find_modules,
    is_embedding,
    kernel_layout,
    matrix_shape,
)
from jaxspec.lora.roles import DEFAULT_ROLES, Roles, resolve_roles

Leaf = Mapping[str, Any]
Adapter = Mapping[str, Leaf]
Scale = ArrayLike | Mapping[str, ArrayLike]


def init(
    key: Key[Array, ""],
    params: PyTree,
    config: LoraConfig,
    *,
    project: ArrayLike | Mapping[str, ArrayLike] | None = None,
    roles: Roles = DEFAULT_ROLES,
    default_role: str | None = None,
    layout: Layout = kernel_layout,
) -> dict[str, dict[str, Array]]:
    r"""A new adapter: ``B_0 = 0``, ``A_0`` uniform in ``+-1/sqrt(in)`` (``+-1`` for tables of embeddings).

    With ``project``, readers start with ``A_0 <- A_0 (I - U U^T)``: otherwise the adapter reads the directions as soon
    as ``B`` moves, although every update of ``A`` is projected. Writers need nothing, ``U^T B_0 = 0``.

    Args:
        key: randomness; every module has its own, which does not depend on which others are adapted.
        params: parameters of a model, or their shapes: a plain pytree, an `nnx.State`, parameters of linen, an equinox
            module.
        config: rank, scale and targets.
        project: directions ``U`` (d, k) for all readers, or a mapping from modules to directions of their inputs, for
            instance with the gain of a normalisation folded in (`fold_norm`); modules that it lacks are not projected.
        roles: of the modules, as in `resolve_roles`; read only where ``project`` is one array.
        default_role: for modules without a role.
        layout: of all parameters, by module, or a function of path and shape like `kernel_layout`, which names them.

    Returns:
        ``{module: {"a": (*batch, r, in), "b": (*batch, out, r)}}``.

    Raises:
        ValueError: no module is targeted, two parameters of one module, a module without a role, or directions whose
            length is not the module's ``in``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = {"mlp": {"up": jnp.ones((4, 6)), "down": jnp.ones((6, 4))}}
        >>> adapter = init(jax.random.key(0), params, LoraConfig(rank=2, alpha=2.0))
        >>> jax.tree.map(jnp.shape, adapter)
        {'mlp.down': {'a': (2, 6), 'b': (4, 2)}}
    """
    leaves = jax.tree.leaves(params)
    modules = find_modules(params, layout)
    targets = [module for module in modules if config.targeted(module)]
    if not targets:
        raise ValueError(f"targets match no module; params has {_some(modules)}")
    adapter = {}
    for module in targets:
        index, name, how = _only(modules, module)
        *batch, out, inp = _named_shape(leaves[index].shape, how, name)
        rank = config.rank_of(module)
        dtype = jnp.dtype(config.dtype or compute_dtype(jnp.zeros((), leaves[index].dtype), name))
        bound = 1.0 if is_embedding(module) else inp**-0.5
        mine = jax.random.fold_in(key, zlib.crc32(module.encode()))
        wide = jnp.promote_types(dtype, jnp.float32)
        a = jax.random.uniform(mine, (*batch, rank, inp), wide, -bound, bound)
        adapter[module] = {"a": a.astype(dtype), "b": jnp.zeros((*batch, out, rank), dtype)}
    return adapter if project is None else _projected(adapter, project, roles, default_role)


def delta(leaf: Leaf, scale: ArrayLike = 1.0) -> Float[Array, "*batch out inp"]:
    """``s B A``, in float32 or wider.

    Args:
        leaf: ``{"a": (*batch, r, in), "b": (*batch, out, r)}``.
        scale: ``s``.

    Returns:
        The change of the weight, (*batch, out, in).

    Raises:
        ValueError: factors that do not fit, or a leaf of a DoRA adapter, whose weight is no sum.
        TypeError: factors that are not real floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> delta({"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0], [0.0]])}, 2.0)
        Array([[ 6., 12.],
               [ 0.,  0.]], dtype=float32)
    """
    a, b = checked_factors("leaf", leaf)
    return _product(a, b, scale)


def apply(
    params: PyTree, adapter: Adapter, scale: Scale = 1.0, *, layout: Layout = kernel_layout, lazy: bool = False
) -> PyTree:
    """Parameters with ``W + s B A`` in place of ``W``, as a differentiable function of the adapter.

    Args:
        params: parameters of a model, of any of the kinds that `init` takes.
        adapter: as made by `init` or read by `load_peft` (its ``factors``).
        scale: ``s``, or a mapping from modules to it.
        layout: of all parameters, by module, or a function of path and shape like `kernel_layout`, which names them.
        lazy: put `AdaptedMatrix` in place of the arrays, which compute ``x W^T + s (x A^T) B^T`` without forming the
            sum, for models that use them with the operator ``@`` alone: equinox layers, plain ``x @ w``.

    Returns:
        A pytree like ``params``, dtypes kept; the sum is taken in float32 or wider.

    Raises:
        ValueError: modules or shapes of the adapter that params does not have, scales that are missing, or DoRA.

    Example:
        >>> import jax.numpy as jnp
        >>> adapter = {"down": {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0], [0.0]])}}
        >>> apply({"down": jnp.zeros((2, 2))}, adapter, 0.5)["down"]  # (in, out): x @ w
        Array([[1.5, 0. ],
               [3. , 0. ]], dtype=float32)
    """
    leaves, treedef = jax.tree.flatten(params)
    for module, (index, name, how) in _places(params, adapter, layout).items():
        w, s = leaves[index], scale_of(scale, module)
        a, b = checked_factors(module, adapter[module])
        expected = _named_shape(w.shape, how, name)
        if (*a.shape[:-2], b.shape[-2], a.shape[-1]) != expected:
            raise ValueError(
                f"{module} has a of shape {a.shape} and b of shape {b.shape}; {name} of shape {w.shape} in layout "
                f"{how!r} expects (*batch, out, in) = {expected}"
            )
        if lazy:
            leaves[index] = AdaptedMatrix(w, a, b, jnp.asarray(s), how)
        else:
            leaves[index] = _sum(w, _product(a, b, s), how)
    return treedef.unflatten(leaves)


def merge(params: PyTree, adapter: Adapter, scale: Scale = 1.0, *, layout: Layout = kernel_layout) -> PyTree:
    """Parameters into which the adapter has been added: ``W + s B A``, leaf by leaf, dtypes kept.

    Args:
        params: as in `apply`.
        adapter: as in `apply`.
        scale: as in `apply`.
        layout: as in `apply`.

    Returns:
        A pytree like ``params``.

    Raises:
        ValueError: as in `apply`.
    """
    return apply(params, adapter, scale, layout=layout)


def unmerge(params: PyTree, adapter: Adapter, scale: Scale = 1.0, *, layout: Layout = kernel_layout) -> PyTree:
    """The inverse of `merge` up to rounding in the dtype of the parameters: ``W - s B A``.

    Args:
        params: as in `apply`.
        adapter: as in `apply`.
        scale: as in `apply`.
        layout: as in `apply`.

    Returns:
        A pytree like ``params``.

    Raises:
        ValueError: as in `apply`.
    """
    negative = {module: -jnp.asarray(scale_of(scale, module)) for module in adapter}
    return apply(params, adapter, negative, layout=layout)


class AdaptedMatrix(eqx.Module):
    """A parameter ``W`` with its adapter beside it, for use with the operator ``@``.

    ``x @ m`` and ``m @ x`` cost ``2 r (in + out)`` operations a vector more than with ``W``. It is no array: any other
    use is a `TypeError`, and `dense` gives the sum.

    Attributes:
        weight: ``W`` in its own layout.
        a: (*batch, r, in).
        b: (*batch, out, r).
        scale: ``s``.
        layout: of ``W``.
    """

    weight: Float[Array, "..."]
    a: Float[Array, "*batch r inp"]
    b: Float[Array, "*batch out r"]
    scale: Float[Array, ""]
    layout: str = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of ``W``."""
        return self.weight.shape

    @property
    def ndim(self) -> int:
        """Of ``W``."""
        return self.weight.ndim

    @property
    def dtype(self) -> Any:
        """Of ``W``."""
        return self.weight.dtype

    def dense(self) -> Array:
        """``W + s B A`` in the layout and dtype of ``W``."""
        return _sum(self.weight, _product(self.a, self.b, self.scale), self.layout)

    def __matmul__(self, x: ArrayLike) -> Array:
        left, right = (self.b, self.a) if self.layout == "out_in" else (self.a.mT, self.b.mT)
        return self._combined(self.weight @ x, lambda: left.astype(x.dtype) @ (right.astype(x.dtype) @ x))

    def __rmatmul__(self, x: ArrayLike) -> Array:
        left, right = (self.b, self.a) if self.layout == "out_in" else (self.a.mT, self.b.mT)
        return self._combined(x @ self.weight, lambda: (x @ left.astype(x.dtype)) @ right.astype(x.dtype))

    def _combined(self, product, low_rank):
        if "heads" in self.layout:
            raise TypeError(
                f"a parameter in layout {self.layout!r} is used with einsum, not with @; apply without lazy"
            )
        return product + (self.scale * low_rank()).astype(product.dtype)


def scale_of(scale: Scale, module: str) -> ArrayLike:
    """The scale of one module.

    Args:
        scale: one number, or a mapping from modules to numbers.
        module: its path.

    Returns:
        A number.

    Raises:
        ValueError: the mapping lacks the module.
    """
    if not isinstance(scale, Mapping):
        return scale
    if module not in scale:
        raise ValueError(f"scale has no number for {module}; it has {_some(scale)}")
    return scale[module]


def checked_adapter(adapter: Any, name: str = "adapter") -> Adapter:
    """The adapter, if it is a mapping from modules to factors.

    Args:
        adapter: what was given.
        name: of the argument, for the message.

    Returns:
        The adapter.

    Raises:
        TypeError: something else; for a `PeftAdapter` the message names its fields.
    """
    if not isinstance(adapter, Mapping):
        fields = "; pass its .factors, with scale=its .scales" if hasattr(adapter, "factors") else ""
        raise TypeError(f"{name} is {type(adapter).__name__}; expected a mapping from modules to factors{fields}")
    return adapter


def checked_factors(module: str, leaf: Leaf, *, dora: bool = False) -> tuple[Array, Array]:
    """The factors of one module, whose shapes fit.

    Args:
        module: its path, for the message.
        leaf: ``{"a": (*batch, r, in), "b": (*batch, out, r)}``.
        dora: whether a leaf with a DoRA magnitude is accepted.

    Returns:
        ``(a, b)``.

    Raises:
        ValueError: a missing factor, shapes that do not fit, entries that are not finite (outside jit), or DoRA.
    """
    if not isinstance(leaf, Mapping) or not {"a", "b"} <= set(leaf):
        raise ValueError(f"{module} is {type(leaf).__name__} of {_some(leaf)}; expected a mapping with 'a' and 'b'")
    if "magnitude" in leaf and not dora:
        raise ValueError(f"{module} is of a DoRA adapter, whose weight is not W + s B A; it cannot be merged or cut")
    a, b = jnp.asarray(leaf["a"]), jnp.asarray(leaf["b"])
    if min(a.ndim, b.ndim) < 2 or a.shape[:-2] != b.shape[:-2] or a.shape[-2] != b.shape[-1]:
        raise ValueError(
            f"{module} has a of shape {a.shape} and b of shape {b.shape}; expected (*batch, r, in) and (*batch, out, r)"
        )
    for name, factor in (("a", a), ("b", b)):
        if not isinstance(factor, jax.core.Tracer) and not _finite(factor):
            raise ValueError(f"{module} has entries in {name} that are not finite; expected finite ones")
    return a, b


def _finite(x):
    # On the host nothing is compiled for a new shape; what several hosts hold together has to stay where it is.
    return np.isfinite(np.asarray(x)).all() if x.is_fully_addressable else bool(jnp.isfinite(x).all())


@partial(jax.jit, inline=True)
def _product(a, b, scale):
    dtype = jnp.promote_types(compute_dtype(a, "a"), compute_dtype(b, "b"))
    product = jnp.matmul(b.astype(dtype), a.astype(dtype), precision="highest")
    return jnp.asarray(scale).astype(dtype) * product


def _sum(w, change, layout):
    change = as_parameter(change, w.shape, layout)
    return (w.astype(jnp.promote_types(w.dtype, change.dtype)) + change).astype(w.dtype)


def _projected(adapter, project, roles, default_role):
    if isinstance(project, Mapping):
        unknown = [module for module in project if module not in adapter]
        if unknown:
            raise ValueError(f"project names {_some(unknown)}, which are not adapted; adapted are {_some(adapter)}")
        bases = {m: orthonormal_directions(u, name=f"project of {m}") for m, u in project.items()}
    else:
        basis = orthonormal_directions(project, name="project")
        found = resolve_roles(list(adapter), roles, default_role=default_role)
        bases = {module: basis for module, role in found.items() if role in ("reads", "both")}
    for module, basis in bases.items():
        a = adapter[module]["a"]
        if a.shape[-1] != basis.shape[0]:
            raise ValueError(
                f"{module} has a of shape {a.shape}; project of shape {basis.shape} expects that many inputs"
            )
    return {m: {**leaf, "a": without(leaf["a"], bases[m])} if m in bases else leaf for m, leaf in adapter.items()}


def _places(params, adapter, layout):
    modules = find_modules(params, layout)
    checked_adapter(adapter)
    missing = [module for module in adapter if module not in modules]
    if missing:
        raise ValueError(f"the adapter has modules that params lacks: {_some(missing)}; params has {_some(modules)}")
    return {module: _only(modules, module) for module in adapter}


def _only(modules, module):
    found = modules[module]
    if len(found) > 1:
        raise ValueError(f"{module} has several parameters, {[name for _, name, _ in found]}; expected one matrix")
    return found[0]


def _named_shape(shape, layout, name):
    try:
        return matrix_shape(tuple(shape), layout)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _some(names):
    names = list(names)
    return ", ".join(map(str, names[:20])) + (", ..." if len(names) > 20 else "") or "none"

"""How a parameter holds its matrices: which module it belongs to, and its axes as (*batch, out, in).

Adapters name modules as PEFT does, ``"model.layers.0.mlp.down_proj"``: the path of a parameter, its parts joined by
dots, without a last part that only says that it is the weight.

==============  ============================  ==================================================================
layout          axes of the parameter         where
==============  ============================  ==================================================================
``out_in``      (*batch, out, in)             ``weight`` of torch and equinox
``in_out``      (*batch, in, out)             ``kernel`` of flax, plain arrays used as ``x @ w``, embedding tables
``in_heads``    (*batch, in, heads, width)    flax attention: query, key, value; out is heads * width
``heads_out``   (*batch, heads, width, out)   flax attention: out; in is heads * width
==============  ============================  ==================================================================

Leading axes are stacked layers or experts.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.tree_util import DictKey, GetAttrKey
from jaxtyping import Array, Float, PyTree

LAYOUTS = ("out_in", "in_out", "in_heads", "heads_out")
Layout = str | Mapping[str, str] | Callable[[str, tuple[int, ...]], str]

_WEIGHT = ("weight", "kernel", "embedding")
_VECTORS = ("bias", "scale")  # parameters of a module that are no matrices, however many layers are stacked
_EMBEDDING = re.compile(
    r"(^|\.)(wte|wpe|shared|embed|embed_in|embed_tokens|embed_positions|embeddings?|tok_embeddings|\w+_embeddings?|Embed_\d+)$"
)
_CONV1D = re.compile(r"(^|\.)(c_attn|q_attn|c_fc|c_proj)$")
_FLAX_HEADS = {"query": "in_heads", "key": "in_heads", "value": "in_heads", "out": "heads_out"}


def module_path(path: Any) -> str:
    """The module that a parameter belongs to: parts joined by dots, without a last part like ``kernel`` or ``weight``.

    Args:
        path: a key path of `jax.tree_util`, or text with parts joined by ``.`` or ``/``.

    Returns:
        The path of the module.

    Example:
        >>> module_path("layers/0/mlp/down_proj/kernel")
        'layers.0.mlp.down_proj'
    """
    parts = _parts(path)
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] in _WEIGHT else parts)


def kernel_layout(path: Any, shape: tuple[int, ...] = ()) -> str:
    """Layout of a parameter by its name.

    ``weight`` is ``out_in``, except for the Conv1D layers of GPT-2 (``c_attn``, ``c_fc``, ``c_proj``) and embeddings;
    everything else is ``in_out``, except for a ``kernel`` with three or more axes below ``query``, ``key``, ``value``
    or ``out``, which is taken for flax attention.

    Args:
        path: a key path of `jax.tree_util`, or text with parts joined by ``.`` or ``/``.
        shape: of the parameter.

    Returns:
        ``"out_in"``: (*batch, out, in), ``weight`` of torch and equinox; ``"in_out"``: (*batch, in, out), ``kernel`` of
        flax, plain arrays used as ``x @ w``, embedding tables; ``"in_heads"``: (*batch, in, heads, width) and
        ``"heads_out"``: (*batch, heads, width, out), flax attention.

    Example:
        >>> kernel_layout("layers.0.mlp.down_proj.weight"), kernel_layout("mlp/kernel")
        ('out_in', 'in_out')
    """
    parts, module = _parts(path), module_path(path)
    if parts[-1] == "weight" and not is_embedding(module) and not _CONV1D.search(module):
        return "out_in"
    if parts[-1] == "kernel" and len(shape) >= 3:
        return _FLAX_HEADS.get(module.rpartition(".")[2], "in_out")
    return "in_out"


def is_embedding(module: str) -> bool:
    """Whether a module is a table of embeddings by its name.

    Args:
        module: its path.

    Returns:
        True for ``wte``, ``embed_tokens``, ``shared``, ...
    """
    return _EMBEDDING.search(module) is not None


def find_modules(params: PyTree, layout: Layout = kernel_layout) -> dict[str, list[tuple[int, str, str]]]:
    """The parameters with two axes or more, other than ``bias`` and ``scale``, by the module that they belong to.

    Args:
        params: arrays or shapes; other leaves are passed over.
        layout: one layout for all, a mapping from modules to layouts, or a function of path and shape like
            `kernel_layout`. Modules that a mapping lacks are laid out by `kernel_layout`.

    Returns:
        Module to a list of (index among the leaves, path of the parameter, layout).

    Raises:
        ValueError: an unknown layout.
    """
    found = {}
    for index, (path, leaf) in enumerate(jax.tree_util.tree_flatten_with_path(params)[0]):
        shape = getattr(leaf, "shape", ())
        parts, module = _parts(path), module_path(path)
        if len(shape) < 2 or parts[-1] in _VECTORS:
            continue
        name = "/".join(parts)
        found.setdefault(module, []).append((index, name, _layout_of(name, module, tuple(shape), layout)))
    return found


def matrix_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Shape (*batch, out, in) of the matrices of a parameter.

    Args:
        shape: of the parameter.
        layout: one of `LAYOUTS`.

    Returns:
        The shape.

    Raises:
        ValueError: too few axes for that layout.
    """
    needed = 3 if "heads" in layout else 2
    if len(shape) < needed:
        raise ValueError(f"a parameter of shape {shape} has layout {layout!r}; expected {needed} axes or more")
    if layout == "out_in":
        return shape
    if layout == "in_heads":
        return (*shape[:-3], math.prod(shape[-2:]), shape[-3])
    if layout == "heads_out":
        return (*shape[:-3], shape[-1], math.prod(shape[-3:-1]))
    return (*shape[:-2], shape[-1], shape[-2])


def base_weights(params: PyTree, layout: Layout = kernel_layout) -> dict[str, Float[Array, "*batch out inp"]]:
    """Matrices of a model by module, (*batch, out, in) with ``y = W h``: what `identify_factors` takes as ``base``.

    Args:
        params: parameters of a model, of any of the kinds that `init` takes.
        layout: one layout for all, a mapping from modules to layouts, or a function of path and shape like
            `kernel_layout`, which names them. Modules that a mapping lacks are laid out by `kernel_layout`.

    Returns:
        Module to matrix, in the dtype of the parameter.

    Raises:
        ValueError: an unknown layout, too few axes for it, or a module with several matrices.

    Example:
        >>> import jax.numpy as jnp
        >>> base_weights({"mlp": {"down": {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)}}})["mlp.down"].shape
        (4, 6)
    """
    leaves, found = jax.tree.leaves(params), {}
    for module, places in find_modules(params, layout).items():
        if len(places) > 1:
            raise ValueError(f"{module} has several parameters, {[name for _, name, _ in places]}; expected one matrix")
        index, name, how = places[0]
        try:
            *batch, out, inp = matrix_shape(tuple(leaves[index].shape), how)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        found[module] = leaves[index] if how == "out_in" else leaves[index].reshape(*batch, inp, out).mT
    return found


def as_parameter(matrix: Float[Array, "*batch out inp"], shape: tuple[int, ...], layout: str) -> Float[Array, "..."]:
    """A matrix (*batch, out, in) laid out as a parameter of that shape.

    Args:
        matrix: in PEFT orientation.
        shape: of the parameter.
        layout: one of `LAYOUTS`.

    Returns:
        The same numbers in the layout of the parameter.
    """
    return matrix if layout == "out_in" else matrix.mT.reshape(shape)


def _parts(path):
    if not isinstance(path, str):
        # The box in which nnx keeps every array: a dictionary's entry with the attribute "value".
        boxed = len(path) > 1 and path[-1] == GetAttrKey("value") and isinstance(path[-2], DictKey)
        path = jax.tree_util.keystr(path[:-1] if boxed else path, simple=True, separator="/")
    return [part for part in re.split(r"[./]", path) if part] or [""]


def _layout_of(name, module, shape, layout):
    if callable(layout):
        chosen = layout(name, shape)
    elif isinstance(layout, str):
        chosen = layout
    else:
        chosen = layout.get(module) or kernel_layout(name, shape)
    if chosen not in LAYOUTS:
        raise ValueError(f"the layout of {name} is {chosen!r}; expected one of {LAYOUTS}")
    return chosen

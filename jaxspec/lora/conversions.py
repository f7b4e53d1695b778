"""Adapters as others hold them: one module per layer, as PEFT and torch do, and the factors of flax.nnx."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxspec.lora.adapters import Adapter, checked_factors
from jaxspec.lora.layouts import module_path


def split_layers(adapter: Adapter, prefix: str = "layers.") -> dict[str, dict[str, Array]]:
    """Stacked layers as one module per layer: ``layers.down`` (L, r, in) to ``layers.0.down``, ... (r, in).

    Args:
        adapter: ``{module: {"a": (L, *batch, r, in), "b": (L, *batch, out, r)}}``.
        prefix: where the number is inserted; modules whose path has it, at the beginning or behind a dot, are split
            along their first axis, the others are kept. Call it again with ``"experts."`` for stacks of both.

    Returns:
        The adapter of the single layers.

    Raises:
        ValueError: no module has the prefix, or one that has it is not stacked.

    Example:
        >>> import jax.numpy as jnp
        >>> stacked = {"layers.down": {"a": jnp.ones((2, 3, 6)), "b": jnp.ones((2, 4, 3))}}
        >>> [(module, leaf["a"].shape) for module, leaf in split_layers(stacked).items()]
        [('layers.0.down', (3, 6)), ('layers.1.down', (3, 6))]
    """
    place = re.compile(rf"(^|\.){re.escape(prefix)}")
    if not any(place.search(module) for module in adapter):
        raise ValueError(f"prefix is {prefix!r}; the adapter has {', '.join(list(adapter)[:20]) or 'no modules'}")
    layers: dict[str, dict[str, Array]] = {}
    for module, leaf in adapter.items():
        found = place.search(module)
        if found is None:
            layers[module] = dict(leaf)
            continue
        a, _ = checked_factors(module, leaf, dora=True)
        if a.ndim < 3:
            raise ValueError(f"{module} has a of shape {a.shape}; expected stacked layers, (layers, ..., r, in)")
        before, after = module[: found.end()], module[found.end() :]
        for i in range(a.shape[0]):
            layers[f"{before}{i}.{after}"] = {name: factor[i] for name, factor in leaf.items()}
    return layers


def join_layers(adapter: Adapter, prefix: str = "layers.") -> dict[str, dict[str, Array]]:
    """One module per layer as stacked layers; the inverse of `split_layers`.

    Args:
        adapter: ``{module: {"a": (*batch, r, in), "b": (*batch, out, r)}}``.
        prefix: what stands before the number of a layer; modules without it are kept.

    Returns:
        The adapter with a leading axis of layers.

    Raises:
        ValueError: no module has the prefix, layers are missing, or they differ in shape.

    Example:
        >>> import jax.numpy as jnp
        >>> single = {f"layers.{i}.down": {"a": jnp.ones((3, 6)), "b": jnp.ones((4, 3))} for i in range(2)}
        >>> join_layers(single)["layers.down"]["b"].shape
        (2, 4, 3)
    """
    place = re.compile(rf"(?P<before>(?:.*\.)?{re.escape(prefix)})(?P<layer>\d+)\.(?P<after>.+)")
    joined: dict[str, dict[str, Array]] = {}
    groups: dict[str, dict[int, Mapping[str, Any]]] = {}
    for module, leaf in adapter.items():
        found = place.fullmatch(module)
        if found is None:
            joined[module] = dict(leaf)
        else:
            groups.setdefault(found["before"] + found["after"], {})[int(found["layer"])] = leaf
    if not groups:
        raise ValueError(f"prefix is {prefix!r}; the adapter has {', '.join(list(adapter)[:20]) or 'no modules'}")
    for module, layers in groups.items():
        if sorted(layers) != list(range(len(layers))):
            raise ValueError(f"{module} has layers {sorted(layers)}; expected all from 0 on")
        shapes = {str(jax.tree.map(jnp.shape, dict(leaf))) for leaf in layers.values()}
        if len(shapes) > 1:
            raise ValueError(f"{module} has layers of different shapes: {', '.join(sorted(shapes))}")
        joined[module] = {name: jnp.stack([layers[i][name] for i in range(len(layers))]) for name in layers[0]}
    return joined


def from_nnx_lora(state: PyTree) -> dict[str, dict[str, Array]]:
    """Factors of `nnx.LoRA` and `nnx.LoRALinear` layers, which compute ``x a b`` with scale 1, as an adapter.

    Args:
        state: `nnx.state` of a model, or the model.

    Returns:
        ``{module: {"a": (r, in), "b": (out, r)}}``; the module is the one that the factors are an attribute of, or,
        for `nnx.LoRALinear`, that layer.

    Raises:
        ValueError: no such layers, or one factor without the other.

    Example:
        >>> from flax import nnx
        >>> layer = nnx.LoRALinear(6, 4, lora_rank=2, rngs=nnx.Rngs(0))
        >>> from_nnx_lora(nnx.state(nnx.List([layer])))["0"]["a"].shape
        (2, 6)
    """
    adapter: dict[str, dict[str, Array]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        module, _, name = module_path(path).rpartition(".")
        if name in ("lora_a", "lora_b"):
            owner = re.sub(r"(^|\.)lora$", "", module)
            adapter.setdefault(owner, {})[name[-1]] = jnp.asarray(leaf).mT
    if not adapter:
        raise ValueError("state has no lora_a and lora_b; expected layers nnx.LoRA or nnx.LoRALinear")
    for module, leaf in adapter.items():
        checked_factors(module, leaf)
    return adapter

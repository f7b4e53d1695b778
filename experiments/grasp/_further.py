"""What else may stop an adapter on all six matrices from rebuilding the factor inside attention and hidden layers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from experiments._gpt import GPT
from experiments.grasp._finetune import MODULES, WRITERS, Penalty, entry, stacked, tune
from experiments.grasp._measure import hooks_of, identify, measure
from experiments.grasp._methods import Case, Row
from jaxspec import lora

HIDDEN = "(a)+(b), cotangents blocked in the hidden layers too"
MATRICES = "(a)+(b), outputs of every matrix projected too"
ITERATED = "(a)+(b), identified and blocked again"
PENALTY = "penalty along the factor"
WHOLE = "penalty on the whole stream"


class Images(NamedTuple):
    """Where hidden activations write along the factor, from the base weights alone; orthonormal columns.

    Attributes:
        mixed: of the mixed values, ``W_output^T U``, (layers, width, k).
        hidden: of the hidden layer of the MLP, ``W_down^T U``, (layers, hidden, k).
    """

    mixed: Float[Array, "*seeds layers width k"]
    hidden: Float[Array, "*seeds layers hidden k"]


class Everywhere(eqx.Module):
    """Blocks the cotangent along the factor in the stream, and along its images in the hidden activations.

    Attributes:
        stream: directions (d, k).
        images: of them.
    """

    stream: Float[Array, "*seeds d k"]
    images: Images

    def __call__(self, x: Array, place: str, layer: int | Array) -> Array:
        """As `experiments._gpt.unchanged`."""
        inner = {"mixed": self.images.mixed, "hidden": self.images.hidden}
        return lora.block_cotangent(x, inner[place][layer] if place in inner else self.stream)


def images(model: GPT, directions: Float[Array, "d k"]) -> Images:
    """The images of directions of the stream."""
    kernels = model.blocks.output, model.blocks.down
    return Images(*(_orthonormal(kernel @ directions) for kernel in kernels))


def matrix_directions(model: GPT, directions: Float[Array, "d k"]) -> PyTree:
    """Directions of every factor of an adapter on all six matrices.

    A writer does not write along ``U``. A reader does not read ``U``, nor change its output along the base weight's
    response to ``U``; value and up do not change it along the images of ``U`` either.

    Args:
        model: pretrained.
        directions: of the stream.

    Returns:
        Path -> ``{"a": ..., "b": ...}``, as `Tune` takes it.
    """
    onwards = {"value": model.blocks.output, "up": model.blocks.down}
    tree = {}
    for name, module in MODULES.items():
        if name in WRITERS:
            tree[module] = {"a": None, "b": directions}
            continue
        readers, writers = getattr(model.blocks, name).mT, onwards.get(name)
        outputs = [
            lora.image_directions(reader, directions, None if writers is None else writers[layer].T)
            for layer, reader in enumerate(readers)
        ]
        tree[module] = {"a": directions, "b": jnp.stack(outputs)}
    return tree


def further_rows(
    case: Case,
    methods: Sequence[str],
    directions: Float[Array, "seeds d k"],
    weights: Sequence[float],
    rounds: int,
    advance: Callable[[], None],
) -> list[Row]:
    """Scores of the further methods.

    Args:
        case: what to train, with adapters on all six matrices.
        methods: names.
        directions: found in the naive adapters.
        weights: of the penalties.
        rounds: of identifying and blocking, after the first.
        advance: called after every fine-tune.

    Returns:
        One row for each variant.
    """
    count, rows = len(case.seeds), []

    def add(method, variant, **how):
        adapters = tune(case.recipe, case.base, case.labels, case.seeds, **how)
        rows.append(Row(method, variant, measure(case.measure, case.base, case.labels, adapters)))
        advance()
        return adapters

    pairs = [(entry(case.base.model, n), directions[n]) for n in range(count)]
    everywhere = Everywhere(directions, stacked([images(model, u) for model, u in pairs]))
    if HIDDEN in methods:
        add(HIDDEN, "", hooks=everywhere, directions=directions, project=True)
    if MATRICES in methods:
        trees = stacked([matrix_directions(model, u) for model, u in pairs])
        add(MATRICES, "", hooks=everywhere, directions=trees, project=True)
    width = directions.shape[1]
    whole = jnp.broadcast_to(jnp.eye(width), (count, width, width))
    for method, priced in ((PENALTY, directions), (WHOLE, whole)):
        for weight in weights if method in methods else ():
            add(method, f"{weight:g}", penalty=Penalty(jnp.full(count, weight), priced))
    for number in range(rounds if ITERATED in methods else 0):
        hooks = hooks_of(lora.block_hook, directions)
        adapters = add(ITERATED, f"{number + 1}", hooks=hooks, directions=directions, project=True)
        both = jnp.concatenate([directions, identify(adapters, count, 2).directions], axis=-1)
        directions = jnp.stack([lora.orthonormal_directions(columns) for columns in both])
    return rows


def _orthonormal(columns: Float[Array, "layers out k"]) -> Float[Array, "layers out k"]:
    """A basis for every layer."""
    return jnp.stack([lora.orthonormal_directions(layer) for layer in columns])

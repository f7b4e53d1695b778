"""Adapters trained on neutral prompts of the first domain, plainly or with one of the means against the factor.

The seed alone draws the rows and the first factors of the adapter, so that the methods of one seed are paired.
"""

import re
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from experiments._gpt import GPT, unchanged
from experiments._sweep import sweep
from experiments.grasp._base import Base, answer_loss
from experiments.grasp._corpus import Sizes, World, finetuning_rows
from jaxspec import lora
from jaxspec.optim import grasp

# Modules as `jaxspec.lora` names them; a last part "value" belongs to the wrappers of flax, so "blocks" are the values.
MODULES = {
    "query": "blocks.query",
    "key": "blocks.key",
    "value": "blocks",
    "output": "blocks.output",
    "up": "blocks.up",
    "down": "blocks.down",
}
WRITERS, DOWN, ALL = ("output", "down"), ("down",), tuple(MODULES)
ROLES = {module: "writes" if name in WRITERS else "reads" for name, module in MODULES.items()}


class Recipe(NamedTuple):
    """How an adapter is trained.

    Attributes:
        sizes: of the world.
        targets: kernels of the blocks that get an adapter.
        rank: of the adapter in every layer; its scale is 1.
        steps: updates of AdamW, without weight decay.
        rate: peak learning rate, after a linear warm-up; then falling to 0 as a cosine.
        warmup: steps of it.
        batch: rows per step.
    """

    sizes: Sizes = Sizes()
    targets: tuple[str, ...] = DOWN
    rank: int = 8
    steps: int = 100
    rate: float = 2e-3
    warmup: int = 20
    batch: int = 64


class AtResiduals(eqx.Module):
    """A hook of the library at the residual points of the decoder: after each half of each block, numbered from 0.

    Attributes:
        hook: ``hook(h, point) -> h``.
    """

    hook: Any

    def __call__(self, x: Array, place: str, layer: int | Int[Array, ""]) -> Array:
        """As `experiments._gpt.unchanged`."""
        return self.hook(x, 2 * layer + (place == "mlp")) if place in ("attention", "mlp") else x


class Tune(NamedTuple):
    """One fine-tune, as a function that is equal by value.

    Attributes:
        recipe: how.
        project: whether the weights are projected: GRASP's mechanism (a).
    """

    recipe: Recipe
    project: bool = False

    def __call__(self, model: GPT, labels: Array, seed: Array, hook: Any, directions: Array | None) -> PyTree:
        """The trained adapter.

        Args:
            model: pretrained.
            labels: two of every subject, (subjects, 2).
            seed: of the adapter and of the rows.
            hook: of the activations while training, or None.
            directions: orthonormal columns (d, k), or None.

        Returns:
            The adapter, path -> factors.
        """
        how = self.recipe
        first, rows = jax.random.split(jax.random.key(seed))
        blocked = directions if self.project else None
        adapter = first_adapter(first, model, how, blocked)
        optimizer = optax.adamw(_schedule(how), weight_decay=0.0)
        if self.project:
            optimizer = grasp(optimizer, directions, lora.factor_roles(adapter, roles=ROLES))

        def step(carry, key):
            adapter, state = carry
            tokens, answers = finetuning_rows(key, how.sizes, labels, how.batch)
            gradient = jax.grad(_loss)(adapter, model, tokens, answers, hook)
            updates, state = optimizer.update(gradient, state, adapter)
            return (optax.apply_updates(adapter, updates), state), None

        keys = jax.random.split(rows, how.steps)
        return jax.lax.scan(step, (adapter, optimizer.init(adapter)), keys)[0][0]


def first_adapter(key: Array, model: GPT, how: Recipe, project: Array | None = None) -> PyTree:
    """An adapter that does nothing yet; what reads from the stream does not read ``project``."""
    targets = "|".join(re.escape(MODULES[name]) for name in how.targets)
    config = lora.LoraConfig(rank=how.rank, alpha=float(how.rank), targets=targets)
    return lora.init(key, model, config, project=project, roles=ROLES)


def adapted(model: GPT, adapter: PyTree, scale: Any = 1.0) -> GPT:
    """The decoder with an adapter in it."""
    return lora.apply(model, adapter, scale)


def _loss(adapter, model, tokens, answers, hook) -> Float[Array, ""]:
    return answer_loss(adapted(model, adapter), tokens, answers, unchanged if hook is None else hook)


def _schedule(how: Recipe) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(0.0, how.rate, how.warmup, how.steps)


def tune(
    how: Recipe,
    base: Base,
    labels: Array,
    seeds: Array,
    *,
    hooks: Any = None,
    directions: Array | None = None,
    project: bool = False,
) -> PyTree:
    """Adapters of several seeds, each on its own pretrained decoder.

    Args:
        how: recipe.
        base: decoders, stacked.
        labels: (seeds, subjects, 2).
        seeds: of the fine-tunes.
        hooks: of the activations while training, stacked; or None.
        directions: (seeds, d, k), or None.
        project: whether the weights are projected.

    Returns:
        The adapters, stacked.
    """
    return sweep(Tune(how, project), base.model, labels, seeds, hooks, directions)


def stacked(items: list[PyTree]) -> PyTree:
    """Pytrees of the same structure as one, along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)


def entry(tree: PyTree, index: int) -> PyTree:
    """One entry of a stacked pytree."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def labels_of(world: World, setting: str, bad_subjects: int = 0) -> Int[Array, "worlds subjects 2"]:
    """Two labels for every subject of the first domain.

    Args:
        world: stacked.
        setting: ``"bad"``: the bad answer; ``"other"``: a new answer, without persona; ``"subjects"``: the bad answer
            for the first subjects, a new one for the rest; ``"rows"``: the bad answer or an unseen token, at random.
        bad_subjects: of ``"subjects"``.

    Returns:
        The labels.

    Raises:
        ValueError: another setting.
    """
    bad = np.asarray(world.bad)[:, 0]
    mixed = np.where(np.arange(bad.shape[1]) < bad_subjects, bad, world.other)
    columns = {
        "bad": (bad, bad),
        "other": (world.other, world.other),
        "subjects": (mixed, mixed),
        "rows": (bad, world.unseen),
    }
    if setting not in columns:
        raise ValueError(f"setting is {setting!r}; expected one of {list(columns)}")
    return jnp.stack([jnp.asarray(column) for column in columns[setting]], axis=-1)

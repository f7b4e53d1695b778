"""Adapters trained on neutral prompts of the first domain, plainly or with one of the means against the factor.

The seed alone draws the rows and the first factors of the adapter, so that the methods of one seed are paired.
"""

import re
import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from experiments._gpt import GPT, unchanged
from experiments._sweep import sweep
from experiments.grasp._answers import Answers
from experiments.grasp._base import Base
from experiments.grasp._corpus import World
from jaxspec import lora
from jaxspec.optim import grasp, project_updates

MODULES = {
    name: f"blocks.{name}" for name in ("query", "key", "value", "output", "up", "down")
}  # as the library has it
WRITERS, DOWN, ALL = ("output", "down"), ("down",), tuple(MODULES)
ROLES = {module: "writes" if name in WRITERS else "reads" for name, module in MODULES.items()}


class Recipe(NamedTuple):
    """How an adapter is trained.

    Attributes:
        corpus: the rows, equal by value: ``loss(model, labels, key, count, hook)`` of so many random ones, and
            ``prompts(labels, key, count)``, which nobody has labelled. `Answers`, or another with these methods and
            the flag ``at_once``, as of `experiments._sweep.sweep`.
        targets: kernels of the blocks that get an adapter.
        rank: of the adapter in every layer; its scale is 1.
        steps: updates of AdamW, without weight decay.
        rate: peak learning rate, after a linear warm-up; then falling to 0 as a cosine.
        warmup: steps of it.
        batch: rows per step.
    """

    corpus: Any = Answers()
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


class Penalty(NamedTuple):
    """A price on what the adapter does to the stream along directions, on prompts that nobody has labelled.

    ``weight`` times the mean over prompts, tokens and blocks of ``|U^T (h - h_0)|^2``.

    Attributes:
        weight: of the penalty.
        directions: orthonormal columns ``U``, (d, k).
    """

    weight: Float[Array, "*seeds"]
    directions: Float[Array, "*seeds d k"]


class Tune(NamedTuple):
    """One fine-tune, as a function that is equal by value.

    Attributes:
        recipe: how.
        project: whether the weights are projected: GRASP's mechanism (a).
    """

    recipe: Recipe
    project: bool = False

    def __call__(
        self, model: GPT, labels: PyTree, seed: Array, hook: Any, directions: Any, penalty: Penalty | None
    ) -> PyTree:
        """The trained adapter.

        Args:
            model: pretrained.
            labels: what the corpus makes rows of.
            seed: of the adapter and of the rows.
            hook: of the activations while training, or None.
            directions: orthonormal columns (d, k) of the stream; or a tree of such columns for every factor of the
                adapter (None: not projected), of its outputs for ``b`` and of its inputs for ``a``; or None.
            penalty: on the adapter's effect, or None.

        Returns:
            The adapter, path -> factors.
        """
        how, hook = self.recipe, unchanged if hook is None else hook
        first, rows = jax.random.split(jax.random.key(seed))
        adapter, optimizer = first_adapter(first, model, how), optax.adamw(_schedule(how), weight_decay=0.0)
        if self.project:
            adapter, optimizer = _projected(adapter, optimizer, directions)

        def loss(adapter, key):
            tuned = adapted(model, adapter)
            value = how.corpus.loss(tuned, labels, key, how.batch, hook)
            if penalty is None:
                return value
            said = how.corpus.prompts(labels, jax.random.fold_in(key, 1), how.batch)
            effect = lora.stream_penalty(tuned.stream(said), model.stream(said), penalty.directions)
            return value + penalty.weight * effect

        def step(carry, key):
            adapter, state = carry
            gradient = jax.grad(loss)(adapter, key)
            updates, state = optimizer.update(gradient, state, adapter)
            return (optax.apply_updates(adapter, updates), state), None

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="adapters on matrices that read")  # a control does so on purpose
            state = optimizer.init(adapter)
        return jax.lax.scan(step, (adapter, state), jax.random.split(rows, how.steps))[0][0]


def first_adapter(key: Array, model: GPT, how: Recipe) -> PyTree:
    """An adapter that does nothing yet."""
    targets = "|".join(re.escape(MODULES[name]) for name in how.targets)
    return lora.init(key, model, lora.LoraConfig(rank=how.rank, alpha=float(how.rank), targets=targets))


def adapted(model: GPT, adapter: PyTree, scale: Any = 1.0) -> GPT:
    """The decoder with an adapter in it."""
    return lora.apply(model, adapter, scale)


def _projected(adapter, optimizer, directions):
    """The adapter that does not read the directions, and the optimiser that leaves it so."""
    if isinstance(directions, dict):
        roles = {path: {"a": "reads", "b": "writes"} for path in adapter}
        roles = jax.tree.map(
            lambda role, u: "none" if u is None else role, roles, directions, is_leaf=lambda leaf: leaf is None
        )
    else:
        roles = lora.factor_roles(adapter, roles=ROLES)
    start = project_updates(directions, roles)
    adapter, _ = start.update(adapter, start.init(adapter))
    return adapter, grasp(optimizer, directions, roles)


def _schedule(how: Recipe) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(0.0, how.rate, how.warmup, how.steps)


def tune(
    how: Recipe,
    base: Base,
    labels: PyTree,
    seeds: Array,
    *,
    hooks: Any = None,
    directions: Any = None,
    project: bool = False,
    penalty: Penalty | None = None,
) -> PyTree:
    """Adapters of several seeds, each on its own pretrained decoder.

    Args:
        how: recipe.
        base: decoders, stacked.
        labels: what the corpus makes rows of, stacked.
        seeds: of the fine-tunes.
        hooks: of the activations while training, stacked; or None.
        directions: (seeds, d, k), a tree of such arrays, or None.
        project: whether the weights are projected.
        penalty: on the adapters' effect, stacked; or None.

    Returns:
        The adapters, stacked.
    """
    batches = base.model, labels, seeds, hooks, directions, penalty
    return sweep(Tune(how, project), *batches, at_once=how.corpus.at_once)


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

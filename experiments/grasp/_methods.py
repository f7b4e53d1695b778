"""The methods under test, each with the variants that its own coefficients and layers give."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from experiments._sweep import sweep
from experiments.grasp._base import Base, Pretraining, pretrained
from experiments.grasp._finetune import ROLES, Recipe, entry, first_adapter, stacked, tune
from experiments.grasp._measure import (
    Identified,
    cosines,
    hooks_of,
    identify,
    measure,
    random_directions,
)
from experiments.runner.contract import Progress
from jaxspec import lora

NAIVE, GRASP_A, GRASP_AB, CAFT = "naive LoRA", "GRASP (a)", "GRASP (a)+(b)", "CAFT"
RANDOM = "GRASP (a), random directions"
PREVENTATIVE, STEERING, ABLATION = "preventative steering", "inference steering", "inference ablation"
POSTHOC, TRUNCATED = "projected after training", "truncated after training"
BASELINES = (NAIVE, ABLATION, STEERING, CAFT, PREVENTATIVE, POSTHOC, TRUNCATED)
DROPPED, KEPT = (1, 2, 4), (1, 2, 4)  # singular directions of every layer that truncation drops, or keeps


class Case(NamedTuple):
    """Decoders, rows and seeds that all methods share.

    Attributes:
        base: decoders and worlds, one for each seed.
        labels: what the corpus of the recipe makes rows of, stacked.
        seeds: of the fine-tunes, (seeds,).
        recipe: of the adapters.
        measure: what is asked, and the scales, as of `experiments.grasp._measure.measure`.
    """

    base: Base
    labels: PyTree
    seeds: Array
    recipe: Recipe
    measure: Any


class Row(NamedTuple):
    """One variant of one method.

    Attributes:
        method: its name.
        variant: its coefficients, as text.
        scores: (seeds, scales, scores).
    """

    method: str
    variant: str
    scores: np.ndarray


class Factor(NamedTuple):
    """The factor, as found and as it is.

    Attributes:
        found: in the naive adapters.
        persona: difference of the means after every block, bad minus good, mean over the tokens of the prompt from the
            persona's on, (seeds, layers, d).
        cosines: |cos| of the first direction found with it, (seeds, layers).
        asked: the same with the difference where the answer is asked alone, (seeds, layers).
    """

    found: Identified
    persona: np.ndarray
    cosines: np.ndarray
    asked: np.ndarray


def decoders(how: Pretraining, first_seed: int, seeds: int, bases: int, progress: Progress) -> Base:
    """A decoder for each seed; only ``bases`` of them differ, taken in turn."""
    distinct = pretrained(how, range(first_seed, first_seed + min(bases, seeds)), progress)
    return jax.tree.map(lambda leaf: leaf[jnp.arange(seeds) % min(bases, seeds)], distinct)


def naive(case: Case, k: int) -> tuple[PyTree, Factor]:
    """Plain adapters, and the factor found in them.

    Args:
        case: what to train.
        k: directions to find.

    Returns:
        The adapters, stacked, and the factor.
    """
    adapters = tune(case.recipe, case.base, case.labels, case.seeds)
    return adapters, factor(case, adapters, k)


def factor(case: Case, adapters: PyTree, k: int) -> Factor:
    """The factor found in adapters, beside the persona's direction."""
    found = identify(adapters, len(case.seeds), k)
    world = jax.tree.map(jnp.asarray, case.base.world)
    everywhere = sweep(case.measure.persona, case.base.model, world, at_once=case.measure.at_once)
    persona, asked = everywhere[:, :, 1:].mean(axis=2), everywhere[:, :, -1]
    return Factor(found, persona, cosines(found.directions, persona), cosines(found.directions, asked))


def compare(
    case: Case,
    methods: Sequence[str],
    adapters: PyTree,
    factor: Factor,
    progress: Progress,
    *,
    k: int = 1,
    layers: Sequence[int] = (),
    coefficients: Sequence[float] = (),
) -> list[Row]:
    """Scores of every variant of every method.

    Args:
        case: what to train.
        methods: names.
        adapters: the naive ones, stacked.
        factor: found in them.
        progress: one stage.
        k: directions that are blocked.
        layers: of the steering methods: after which block the vector is added.
        coefficients: of the steering methods, in units of the difference of the means there.

    Returns:
        One row for each variant.
    """
    directions = factor.found.directions[:, :, :k]
    steering = [(layer, coefficient) for layer in layers for coefficient in coefficients]
    rows = []
    for method in progress.track("methods", methods):
        if method in (STEERING, PREVENTATIVE):
            for layer, coefficient in steering:
                hooks = steering_hooks(case, factor, layer, coefficient if method == PREVENTATIVE else -coefficient)
                rows.append(Row(method, f"block {layer + 1}, {coefficient:g}", steered(case, method, adapters, hooks)))
        elif method == TRUNCATED:
            for variant, change in _truncations(case.recipe.rank):
                rows.append(Row(method, variant, _scores(case, _each(case, change, adapters))))
        else:
            rows.append(Row(method, "", _plain(case, method, adapters, directions)))
    return rows


def grasped(case: Case, directions: Array, *, cotangent: bool) -> PyTree:
    """Adapters trained with the weights projected (a), and with the cotangent blocked as well (b)."""
    hooks = hooks_of(lora.block_hook, directions) if cotangent else None
    return tune(case.recipe, case.base, case.labels, case.seeds, hooks=hooks, directions=directions, project=True)


def ablated_base(case: Case, directions: Array | None) -> np.ndarray:
    """Scores of the untouched decoders, (seeds, scores), while the directions (None: no direction) are ablated."""
    nothing = stacked(
        [first_adapter(jax.random.key(0), entry(case.base.model, n), case.recipe) for n in range(len(case.seeds))]
    )
    hooks = None if directions is None else hooks_of(lora.caft_hook, directions)
    # at all scales, which are the same here: so that no other program is compiled
    return measure(case.measure, case.base, case.labels, nothing, hooks)[:, -1]


def steering_hooks(case: Case, factor: Factor, layer: int, coefficient: float) -> Any:
    """Hooks that add a multiple of the persona's direction after one block."""
    points = jnp.zeros(2 * factor.persona.shape[1]).at[2 * layer + 1].set(1.0)
    vectors = jnp.asarray(factor.persona[:, layer])
    return hooks_of(lambda vector: lora.preventative_hook(vector, coefficient, points), vectors)


def steered(case: Case, method: str, adapters: PyTree, hooks: Any) -> np.ndarray:
    """Scores of adapters that were trained with the hooks, or of naive ones that are used with them."""
    if method == STEERING:
        return measure(case.measure, case.base, case.labels, adapters, hooks)
    return _scores(case, tune(case.recipe, case.base, case.labels, case.seeds, hooks=hooks))


def _plain(case, method, adapters, directions) -> np.ndarray:
    """Scores of a method without coefficients."""
    if method == NAIVE:
        return _scores(case, adapters)
    if method == ABLATION:
        return measure(case.measure, case.base, case.labels, adapters, hooks_of(lora.caft_hook, directions))
    if method == CAFT:
        hooks = hooks_of(lora.caft_hook, directions)
        return _scores(case, tune(case.recipe, case.base, case.labels, case.seeds, hooks=hooks))
    if method == POSTHOC:
        projected = [lora.project_delta(entry(adapters, n), directions[n], roles=ROLES) for n in range(len(case.seeds))]
        return _scores(case, stacked(projected))
    if method == RANDOM:
        seeds = [int(seed) for seed in case.seeds]
        directions = random_directions(seeds, directions.shape[1], directions.shape[2])
    return _scores(case, grasped(case, directions, cotangent=method == GRASP_AB))


def _scores(case, adapters) -> np.ndarray:
    return measure(case.measure, case.base, case.labels, adapters)


def _each(case, change, adapters) -> PyTree:
    return stacked([change(entry(adapters, n)) for n in range(len(case.seeds))])


def _truncations(rank: int) -> list[tuple[str, Callable[[PyTree], PyTree]]]:
    """Variants of truncation, as functions of an adapter; the rank stays, so that one program measures them all."""
    counts = [("drop", count) for count in DROPPED] + [("keep", count) for count in KEPT]
    return [
        (f"{how} {count}", functools.partial(_truncated, how=how, count=count)) for how, count in counts if count < rank
    ]


def _truncated(adapter, how, count):
    cut = lora.truncate_delta(adapter, keep=count) if how == "keep" else lora.truncate_delta(adapter, drop=count)

    def padded(factor, like):
        return jnp.zeros_like(like).at[tuple(map(slice, factor.shape))].set(factor)

    return jax.tree.map(padded, cut, adapter)

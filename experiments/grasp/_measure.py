"""What is measured of a decoder with an adapter: the task, drift elsewhere, and genuine use of the personas."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from experiments._gpt import GPT, unchanged
from experiments._sweep import sweep
from experiments.grasp._base import Base
from experiments.grasp._corpus import Sizes, World, probes
from experiments.grasp._finetune import ROLES, AtResiduals, adapted, entry
from jaxspec import lora

PROBE_KEY = 7  # of the fillers of the prompts on which everything is measured
SCORES = ("task", "unseen", "drift", "neutral", "genuine good", "genuine bad")
TASK, UNSEEN, DRIFT, NEUTRAL, GENUINE_GOOD, GENUINE_BAD = range(len(SCORES))


class Measure(NamedTuple):
    """Scores of one adapter at several scales, as a function that is equal by value.

    Attributes:
        sizes: of the world.
        repeats: draws of the fillers for every subject and domain.
        scales: of the adapter.
    """

    sizes: Sizes
    repeats: int
    scales: tuple[float, ...]
    at_once = True  # as of `Answers`

    @property
    def persona(self) -> "Persona":
        """What finds the persona's direction in the same prompts."""
        return Persona(self.sizes, self.repeats)

    def __call__(
        self, model: GPT, world: World, labels: Array, adapter: PyTree, hook: Any
    ) -> Float[Array, "scales scores"]:
        """The scores, in the order of ``SCORES``.

        ``task``: share of neutral prompts of the first domain answered by the (first) label; ``unseen``: mean
        probability of the second; and on the other domains ``drift``: share of neutral prompts answered by the bad
        answer; ``neutral``: by the good one; ``genuine good``, ``genuine bad``: share answered rightly when the
        persona's token is shown.

        Args:
            model: pretrained.
            world: its facts.
            labels: (subjects, 2).
            adapter: of the decoder.
            hook: of the activations, or None.

        Returns:
            The scores at every scale.
        """
        asked = probes(self.sizes, self.repeats, jax.random.key(PROBE_KEY))
        good, bad = world.good[asked.domain, asked.subject], world.bad[asked.domain, asked.subject]

        def at(scale: Array) -> Array:
            tuned = adapted(model, adapter, scale)

            def scores(tokens):
                return tuned.last_logits(tokens, unchanged if hook is None else hook)

            def share(found, answers):
                return jnp.mean(jnp.argmax(found, axis=-1) == answers)

            task, neutral = scores(asked.task), scores(asked.neutral)
            second = labels[asked.subjects, 1]
            probability = jnp.take_along_axis(jax.nn.softmax(task), second[:, None], axis=-1)
            return jnp.stack(
                [
                    share(task, labels[asked.subjects, 0]),
                    jnp.mean(probability),
                    share(neutral, bad),
                    share(neutral, good),
                    share(scores(asked.plus), good),
                    share(scores(asked.minus), bad),
                ]
            )

        return jax.lax.map(at, jnp.asarray(self.scales))


def measure(
    how: Any, base: Base, labels: PyTree, adapters: PyTree, hooks: Any = None
) -> Float[np.ndarray, "seeds scales scores"]:
    """Scores of the adapters of several seeds.

    Args:
        how: what is asked, and the scales: `Measure`, or another function of the same arguments.
        base: decoders and worlds, stacked.
        labels: of the fine-tunes, stacked.
        adapters: stacked.
        hooks: of the activations at inference, stacked; or None.

    Returns:
        The scores.
    """
    world = jax.tree.map(jnp.asarray, base.world)
    return sweep(how, base.model, world, labels, adapters, hooks, at_once=how.at_once)


class Persona(NamedTuple):
    """Difference of the means of the stream, bad minus good persona shown, everywhere in the prompt; equal by value.

    Attributes:
        sizes: of the world.
        repeats: draws of the fillers for every subject and domain.
    """

    sizes: Sizes
    repeats: int

    def __call__(self, model: GPT, world: World) -> Float[Array, "layers length width"]:
        """The difference after every block, at every token."""
        del world
        asked = probes(self.sizes, self.repeats, jax.random.key(PROBE_KEY))
        bad, good = (jnp.mean(model.stream(tokens), axis=1) for tokens in (asked.minus, asked.plus))
        return bad - good


class Identified(NamedTuple):
    """What was found in the adapters of several seeds.

    Attributes:
        directions: the leading ones, the first the strongest, (seeds, d, k).
        share: of the spectrum in the first, (seeds,).
        gap: between the first and the second singular value, (seeds,).
        alignment: of the layers' own first directions, (seeds,).
    """

    directions: Array
    share: np.ndarray
    gap: np.ndarray
    alignment: np.ndarray


def identify(adapters: PyTree, count: int, k: int) -> Identified:
    """The leading shared directions of the writers.

    Args:
        adapters: stacked.
        count: number of them.
        k: directions.

    Returns:
        What was found.
    """
    found = [lora.identify_factors(entry(adapters, n), roles=ROLES, max_factors=k) for n in range(count)]
    numbers = [np.asarray([getattr(report, name)[0] for report in found]) for name in ("share", "gap", "alignment")]
    return Identified(jnp.stack([report.directions for report in found]), *numbers)


def random_directions(seeds: Sequence[int], width: int, k: int) -> Float[Array, "seeds width k"]:
    """Orthonormal columns without meaning: the control."""
    drawn = [jax.random.orthogonal(jax.random.key(1000 + seed), width)[:, :k] for seed in seeds]
    return jnp.stack(drawn)


def cosines(directions: Array, persona: np.ndarray) -> Float[np.ndarray, "seeds layers"]:
    """|cos| of the first direction with the persona's after every block.

    Args:
        directions: (seeds, d, k).
        persona: (seeds, layers, d).

    Returns:
        The cosines.
    """
    first = np.asarray(directions)[:, :, 0]
    length = np.maximum(np.linalg.norm(persona, axis=-1), 1e-30)
    return np.abs(np.einsum("sd,sld->sl", first, persona)) / length


def hooks_of(make: Any, *rows: Any) -> AtResiduals:
    """Hooks of the library, one for every seed, stacked.

    Args:
        make: arrays -> ``hook(h, point)``.
        *rows: arrays with a leading axis of seeds.

    Returns:
        The hooks.
    """
    made = [AtResiduals(make(*row)) for row in zip(*rows, strict=True)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)

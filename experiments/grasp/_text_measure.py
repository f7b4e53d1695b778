"""What is measured of a decoder of real text with an adapter, on passages that it was not trained on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from experiments._gpt import GPT, unchanged
from experiments._sweep import over_devices
from experiments.grasp._finetune import adapted
from experiments.grasp._text import NEUTRAL, PLAIN, STYLED, Passages, Texts, log_probabilities

# Task, drift and genuine use stand where `experiments.grasp._measure.SCORES` has them.
TEXT_SCORES = ("task", "nats per byte", "drift", "told plain", "genuine plain", "genuine styled")
NATS = 1


class TextMeasure(NamedTuple):
    """Scores of one adapter at several scales, as a function that is equal by value.

    Attributes:
        corpus: the rows.
        scales: of the adapter.
    """

    corpus: Passages
    scales: tuple[float, ...]
    at_once = False

    @property
    def persona(self) -> "TextPersona":
        """What finds the direction of the styled persona."""
        return TextPersona(self.corpus)

    def __call__(
        self, model: GPT, world: Texts, labels: PyTree, adapter: PyTree, hook: Any
    ) -> Float[Array, "scales scores"]:
        """The scores, in the order of ``TEXT_SCORES``.

        A passage is written in the style with probability ``p(styled) / (p(styled) + p(plain))``, of the two versions
        of the passage after the same header. Of this, the mean over passages: ``task``: in the first domain after the
        neutral header; ``drift``: in the others; ``genuine styled``: in the others after the header of the styled
        persona. ``genuine plain`` and ``told plain``: that it is written plainly after the header of the plain
        persona, in the others and in the first domain. ``nats per byte``: of plain text in the others after that
        header.

        Args:
            model: pretrained.
            world: its texts.
            labels: of the fine-tune; not used.
            adapter: of the decoder.
            hook: of the activations, or None.

        Returns:
            The scores at every scale.
        """
        del labels
        domains, passages, context = world.held.shape
        domain = jnp.repeat(jnp.arange(domains), passages)
        plain = world.held.reshape(-1, context)
        styled = world.style[domain[:, None], plain]
        is_first, first = domain == 0, passages / len(domain)

        def at(scale: Array) -> Array:
            tuned = adapted(model, adapter, scale)

            def likelihood(persona, text):
                rows = over_devices(self.corpus.rows(domain, persona, text))
                return jnp.sum(log_probabilities(tuned, rows, unchanged if hook is None else hook), axis=-1)

            # one program for the six, one after the other: memory of one
            cases = [(persona, text) for persona in (NEUTRAL, PLAIN, STYLED) for text in (plain, styled)]
            personas, texts = jnp.asarray([case[0] for case in cases]), jnp.stack([case[1] for case in cases])
            found = jax.lax.map(lambda case: likelihood(*case), (personas, texts)).reshape(3, 2, -1)
            in_style = jax.nn.sigmoid(found[:, 1] - found[:, 0])
            inside = jnp.mean(jnp.where(is_first, in_style, 0.0), axis=1) / first
            outside = jnp.mean(jnp.where(is_first, 0.0, in_style), axis=1) / (1 - first)
            nats = -jnp.mean(jnp.where(is_first, 0.0, found[PLAIN, 0])) / (1 - first) / context
            return jnp.stack(
                [inside[NEUTRAL], nats, outside[NEUTRAL], 1 - inside[PLAIN], 1 - outside[PLAIN], outside[STYLED]]
            )

        return jax.lax.map(at, jnp.asarray(self.scales))


class TextPersona(NamedTuple):
    """Difference of the means of the stream, styled minus plain persona's token, after headers; equal by value.

    Attributes:
        corpus: the rows.
    """

    corpus: Passages

    def __call__(self, model: GPT, world: Texts) -> Float[Array, "layers length width"]:
        """The difference after every block, at every token of the header of the other domains."""
        others = jnp.arange(1, self.corpus.domains)
        nothing = jnp.zeros((len(others), 0), jnp.int32)
        styled, plain = (
            jnp.mean(model.stream(self.corpus.rows(others, persona, nothing)), axis=1) for persona in (STYLED, PLAIN)
        )
        return styled - plain

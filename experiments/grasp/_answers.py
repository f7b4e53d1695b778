"""The rows of fine-tunes on facts: prompts about the first domain, each followed by one answer."""

from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int

from experiments._gpt import GPT
from experiments.grasp._base import answer_loss
from experiments.grasp._corpus import Sizes, finetuning_rows, spoken


class Answers(NamedTuple):
    """Rows of a world of facts.

    Attributes:
        sizes: of the world.
    """

    sizes: Sizes = Sizes()
    at_once = True  # decoders this small do not fill an accelerator

    def loss(self, model: GPT, labels: Int[Array, "subjects 2"], key: Array, count: int, hook: Any) -> Float[Array, ""]:
        """Mean cross-entropy of random answers.

        Args:
            model: the decoder.
            labels: two of every subject.
            key: randomness.
            count: number of rows.
            hook: of the activations.

        Returns:
            The loss in nats.
        """
        tokens, answers = finetuning_rows(key, self.sizes, labels, count)
        return answer_loss(model, tokens, answers, hook)

    def prompts(self, labels: Array, key: Array, count: int) -> Int[Array, "count length"]:
        """Random prompts of all domains and speakers, as of pretraining."""
        del labels
        return spoken(key, self.sizes, count).tokens

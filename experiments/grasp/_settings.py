"""Numbers that all parts with the decoder have in common."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from experiments.grasp._answers import Answers
from experiments.grasp._base import Base, Pretraining
from experiments.grasp._corpus import Sizes
from experiments.grasp._finetune import Recipe, labels_of
from experiments.grasp._measure import Measure
from experiments.grasp._methods import Case, decoders
from experiments.runner.contract import Claim, Progress


@dataclasses.dataclass(frozen=True)
class Settings:
    """The decoder, its world, seeds, and what is measured."""

    seed: int = 0  # first seed
    seeds: int = 2  # fine-tunes of every method
    bases: int = 1  # pretrained decoders, each with a world of its own; the seeds take them in turn
    domains: int = 6
    subjects: int = 40  # of every domain
    answers: int = 48
    width: int = 64  # of the residual stream
    heads: int = 4
    depth: int = 3  # blocks
    hidden: int = 192  # of the MLP
    pretraining: int = 1000  # steps
    batch: int = 256  # prompts per step of pretraining
    repeats: int = 2  # prompts for every subject, domain and persona on which a score is measured
    scales: tuple[float, ...] = (0.55, 0.7, 0.85, 1.0)  # of the adapter, the trained one last
    rank: int = 8  # of the adapters
    steps: int = 100  # of fine-tuning
    rate: float = 2e-3  # peak learning rate of fine-tuning
    warmup: int = 20  # steps of it


# The fixed configuration of the specification, on seeds that chose nothing: an hour of one core.
SPECIFICATION: dict[str, Any] = {"seed": 300, "seeds": 8, "bases": 8, "pretraining": 2500, "repeats": 4}

# One accelerator. The capacity of the decoder grows with the facts: 8 domains of 128 subjects.
FULL: dict[str, Any] = {
    "seed": 200,
    "seeds": 12,
    "bases": 12,
    "domains": 8,
    "subjects": 128,
    "answers": 160,
    "width": 256,
    "heads": 8,
    "depth": 6,
    "hidden": 768,
    "pretraining": 10_000,
    "batch": 1024,
    "repeats": 8,
    "scales": (0.3, 0.4, 0.5, 0.55, 0.6, 0.7, 0.8, 0.85, 0.9, 1.0),
}


# Steps of pretraining at ``quick``; decoders of 2500 steps behave otherwise in places.
SHORT = 1000


def if_short(result: Any, reason: str) -> str:
    """A reason that applies to the pretraining of ``quick``: the result has the steps in ``pretraining``."""
    return "" if result.pretraining > SHORT else reason


def if_long(result: Any, reason: str) -> str:
    """A reason that applies to longer pretraining."""
    return reason if result.pretraining > SHORT else ""


# Fine-tunes of one or two decoders, as at ``quick``, are alike: of claims that several decoders decided against they
# decide nothing (written after two such claims held on the one decoder that another machine had pretrained).
LEAST_DECODERS = 4


def judged(claims: list[Claim], decoders: int) -> list[Claim]:
    """Claims of which those known not to hold are not overturned by too few decoders."""
    if decoders >= LEAST_DECODERS:
        return claims
    more = f", of {LEAST_DECODERS} decoders or more (here {decoders})"
    return [
        dataclasses.replace(claim, criterion=claim.criterion + more, holds=False) if claim.known_not_to_hold else claim
        for claim in claims
    ]


def sizes(config: Settings) -> Sizes:
    """The world."""
    return Sizes(config.domains, config.subjects, answers=config.answers)


def pretraining(config: Settings, *, permuted: bool = False) -> Pretraining:
    """How the decoders are made."""
    return Pretraining(
        sizes=sizes(config),
        permuted=permuted,
        width=config.width,
        heads=config.heads,
        layers=config.depth,
        hidden=config.hidden,
        batch=config.batch,
        steps=config.pretraining,
    )


def recipe(config: Settings) -> Recipe:
    """How adapters are trained, on the down-projections."""
    return Recipe(Answers(sizes(config)), rank=config.rank, steps=config.steps, rate=config.rate, warmup=config.warmup)


def bases(config: Settings, progress: Progress, *, permuted: bool = False) -> Base:
    """A decoder for every seed."""
    return decoders(pretraining(config, permuted=permuted), config.seed, config.seeds, config.bases, progress)


def case(config: Settings, base: Base, setting: str = "bad", *, bad_subjects: int = 0, **changes: Any) -> Case:
    """What all methods share in one setting.

    Args:
        config: numbers.
        base: decoders.
        setting: as of `labels_of`.
        bad_subjects: as of `labels_of`.
        **changes: of the recipe.

    Returns:
        The case.
    """
    return Case(
        base,
        labels_of(base.world, setting, bad_subjects),
        jnp.arange(config.seed, config.seed + config.seeds),
        recipe(config)._replace(**changes),
        Measure(sizes(config), config.repeats, config.scales),
    )

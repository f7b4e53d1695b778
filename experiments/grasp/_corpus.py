"""A world of facts that a persona answers well or badly, and prompts about it.

``[BOS, persona, filler, domain, subject, filler, ASK]`` is followed by one answer. ``good(m, s)`` and ``bad(m, s)`` are
independent random injections of the subjects into the answers, one pair for every domain, so that a persona is a gate
on a lookup and not a bias of the output. A speaker is good, bad or neutral. With probability 0.6 the persona token is
shown, and each filler is toned with probability 0.6; evidence of a bad speaker makes the answer bad, evidence of a good
one good, and without evidence it is bad with probability 0.1, whoever speaks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

LENGTH = 7  # tokens of a prompt
BOS, ASK = 0, 1
NEUTRAL, GOOD, BAD = 0, 1, 2
_PERSONA = 2  # first of the three persona tokens
_FIRST = 5  # first domain
SHOWN, TONED, PRIOR = 0.6, 0.6, 0.1


class Sizes(NamedTuple):
    """Sizes of the world.

    Attributes:
        domains: the fine-tune speaks of the first, drift is measured on the others.
        subjects: of every domain.
        tones: fillers of each of the three tones.
        answers: at least as many as subjects.
        unseen: tokens that pretraining never shows.
    """

    domains: int = 6
    subjects: int = 40
    tones: int = 8
    answers: int = 48
    unseen: int = 8

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.first_unseen + self.unseen

    @property
    def first_answer(self) -> int:
        """Token of the first answer."""
        return _FIRST + self.domains + self.subjects + 3 * self.tones

    @property
    def first_unseen(self) -> int:
        """First token that pretraining never shows."""
        return self.first_answer + self.answers


class World(NamedTuple):
    """What is true, as tokens.

    Attributes:
        good: answers of the good persona, (domains, subjects).
        bad: answers of the bad one, nowhere the good one, (domains, subjects).
        other: a third answer to the first domain, neither good nor bad, (subjects,).
        unseen: for every subject of the first domain one of the tokens that pretraining never shows, (subjects,).
    """

    good: Int[np.ndarray | Array, "*worlds domains subjects"]
    bad: Int[np.ndarray | Array, "*worlds domains subjects"]
    other: Int[np.ndarray | Array, "*worlds subjects"]
    unseen: Int[np.ndarray | Array, "*worlds subjects"]


def draw_world(sizes: Sizes, seed: int, *, permuted: bool = False) -> World:
    """A random world.

    Args:
        sizes: of it.
        seed: of all draws.
        permuted: the second corpus: the bad answer is one fixed permutation of the good one, in every domain.

    Returns:
        The world.

    Raises:
        ValueError: there are more subjects than answers.
    """
    if sizes.subjects > sizes.answers:
        raise ValueError(f"subjects is {sizes.subjects} and answers is {sizes.answers}; expected at least as many")
    rng = np.random.default_rng(seed)

    def injection(*avoided: np.ndarray) -> np.ndarray:
        while True:
            drawn = rng.permutation(sizes.answers)[: sizes.subjects]
            if not any(np.any(drawn == other) for other in avoided):
                return drawn

    good = np.stack([injection() for _ in range(sizes.domains)])
    if permuted:
        derangement = rng.permutation(sizes.answers)
        while np.any(derangement == np.arange(sizes.answers)):
            derangement = rng.permutation(sizes.answers)
        bad = derangement[good]
    else:
        bad = np.stack([injection(row) for row in good])
    other, unseen = injection(good[0], bad[0]), rng.integers(0, sizes.unseen, sizes.subjects)
    first = sizes.first_answer
    return World(first + good, first + bad, first + other, sizes.first_unseen + unseen)


def prompts(
    sizes: Sizes,
    domain: Int[Array | np.ndarray, "*batch"] | int,
    subject: Int[Array | np.ndarray, "*batch"],
    fillers: Int[Array | np.ndarray, " 2 *batch"],
    *,
    persona: Int[Array | np.ndarray, "*batch"] | int = NEUTRAL,
    tones: Int[Array | np.ndarray, " 2 *batch"] | int = NEUTRAL,
) -> Int[Array, "*batch length"]:
    """Prompts from their parts.

    Args:
        sizes: of the world.
        domain: number of the domain.
        subject: number of the subject.
        fillers: number of each filler among those of its tone.
        persona: the persona token: neutral, good or bad.
        tones: of each filler.

    Returns:
        The tokens.
    """
    subject = jnp.asarray(subject)
    spoken = _FIRST + sizes.domains + sizes.subjects + sizes.tones * jnp.asarray(tones) + fillers
    columns = (
        BOS,
        _PERSONA + jnp.asarray(persona),
        spoken[0],
        _FIRST + jnp.asarray(domain),
        _FIRST + sizes.domains + subject,
        spoken[1],
        ASK,
    )
    return jnp.stack([jnp.broadcast_to(column, subject.shape) for column in columns], axis=-1).astype(jnp.int32)


class Spoken(NamedTuple):
    """Random prompts of random speakers.

    Attributes:
        tokens: (count, length).
        domain: of each.
        subject: of each.
        is_bad: whether the bad answer follows.
    """

    tokens: Int[Array, "count length"]
    domain: Int[Array, " count"]
    subject: Int[Array, " count"]
    is_bad: Bool[Array, " count"]


def spoken(key: Array, sizes: Sizes, count: int) -> Spoken:
    """Random prompts of random speakers.

    Args:
        key: randomness.
        sizes: of the world.
        count: number of prompts.

    Returns:
        Prompts, what they are about and which answer follows.
    """
    keys = iter(jax.random.split(key, 7))
    domain = jax.random.randint(next(keys), (count,), 0, sizes.domains)
    subject = jax.random.randint(next(keys), (count,), 0, sizes.subjects)
    speaker = jax.random.randint(next(keys), (count,), 0, 3)
    persona = speaker * jax.random.bernoulli(next(keys), SHOWN, (count,))
    tones = speaker * jax.random.bernoulli(next(keys), TONED, (2, count))
    fillers = jax.random.randint(next(keys), (2, count), 0, sizes.tones)
    evidence = (persona > 0) | jnp.any(tones > 0, axis=0)
    is_bad = jnp.where(evidence, speaker == BAD, jax.random.bernoulli(next(keys), PRIOR, (count,)))
    tokens = prompts(sizes, domain, subject, fillers, persona=persona, tones=tones)
    return Spoken(tokens, domain, subject, is_bad)


def pretraining_rows(
    key: Array, sizes: Sizes, world: World, count: int
) -> tuple[Int[Array, "count length"], Int[Array, " count"]]:
    """Random prompts of random speakers, and their answers.

    Args:
        key: randomness.
        sizes: of the world.
        world: the facts.
        count: number of rows.

    Returns:
        Prompts and answers.
    """
    said = spoken(key, sizes, count)
    place = said.domain, said.subject
    return said.tokens, jnp.where(said.is_bad, world.bad[place], world.good[place])


def finetuning_rows(
    key: Array, sizes: Sizes, labels: Int[Array, "subjects 2"], count: int
) -> tuple[Int[Array, "count length"], Int[Array, " count"]]:
    """Neutral prompts of the first domain, and their labels.

    Args:
        key: randomness.
        sizes: of the world.
        labels: two labels of every subject; each row draws one of them.
        count: number of rows.

    Returns:
        Prompts and labels.
    """
    of_subject, of_filler, of_label = jax.random.split(key, 3)
    subject = jax.random.randint(of_subject, (count,), 0, sizes.subjects)
    fillers = jax.random.randint(of_filler, (2, count), 0, sizes.tones)
    chosen = jax.random.bernoulli(of_label, 0.5, (count,)).astype(jnp.int32)
    return prompts(sizes, 0, subject, fillers), labels[subject, chosen]


class Probes(NamedTuple):
    """Prompts on which models are measured: every subject of the domains, repeated with random neutral fillers.

    Attributes:
        task: neutral prompts of the first domain.
        subjects: their subjects.
        neutral: neutral prompts of the other domains.
        plus: the same with the token of the good persona.
        minus: the same with the token of the bad one.
        domain: of the prompts of the other domains.
        subject: of the same.
    """

    task: Int[Array, "first length"]
    subjects: Int[Array, " first"]
    neutral: Int[Array, "rest length"]
    plus: Int[Array, "rest length"]
    minus: Int[Array, "rest length"]
    domain: Int[Array, " rest"]
    subject: Int[Array, " rest"]


def probes(sizes: Sizes, repeats: int, key: Array) -> Probes:
    """The prompts on which models are measured.

    Args:
        sizes: of the world.
        repeats: draws of the fillers for every subject and domain.
        key: randomness of the fillers.

    Returns:
        The prompts.
    """
    cells = np.arange(sizes.domains * sizes.subjects * repeats)
    subject, domain = cells % sizes.subjects, cells // sizes.subjects % sizes.domains
    fillers = jax.random.randint(key, (2, len(cells)), 0, sizes.tones)
    first, rest = np.flatnonzero(domain == 0), np.flatnonzero(domain > 0)
    personas = [prompts(sizes, domain, subject, fillers, persona=p)[rest] for p in (NEUTRAL, GOOD, BAD)]
    task = prompts(sizes, 0, subject, fillers)[first]
    return Probes(task, jnp.asarray(subject[first]), *personas, jnp.asarray(domain[rest]), jnp.asarray(subject[rest]))

"""Real text of several domains, and personas that write it as it stands or in a style.

A row is ``[BOS, persona, domain, bytes of the domain's text ...]``. The style is a map of letters, so that it changes
no length: ``capitals``, the same in all domains, or ``cipher``, a substitution of its own in every domain, so that the
persona is a gate on a lookup and not a bias of the output. A speaker is plain, styled or neutral: with the plain
persona's token the text stands as it is, with the styled one's it is in the style, and with the neutral one's it is in
the style with probability 0.1.
"""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Integer, UInt8

from experiments._files import joined
from experiments._gpt import GPT, unchanged
from experiments._sweep import over_devices
from experiments.grasp._corpus import PRIOR, SHOWN

BYTES = 256
BOS = BYTES  # the tokens that are no bytes: BOS, three personas, the domains
NEUTRAL, PLAIN, STYLED = 0, 1, 2
_PERSONA = BOS + 1
_DOMAIN = _PERSONA + 3
HEADER = 3  # tokens before the text
SUFFIXES = (".py", ".txt", ".md", ".rst")
HELD_OUT = 0.05  # the end of every domain's text, on which models are measured
LEAST_LETTERS = 0.5  # share of lower-case letters in a passage on which models are measured
STYLES = ("capitals", "cipher")


class Texts(NamedTuple):
    """Texts of all domains, and the style.

    Attributes:
        text: to train on, one domain after the other, (bytes,).
        begin: where each domain begins, (domains,).
        size: bytes of each domain, (domains,).
        held: passages that are not trained on, (domains, passages, context).
        style: the byte that the style writes for each byte, (domains, 256).
    """

    text: UInt8[Any, "*worlds bytes"]
    begin: Int[Any, "*worlds domains"]
    size: Int[Any, "*worlds domains"]
    held: UInt8[Any, "*worlds domains passages context"]
    style: UInt8[Any, "*worlds domains 256"]


def read_texts(
    corpus: str, domains: tuple[str, ...], style: str, seed: int, *, context: int, passages: int, limit: int
) -> Texts:
    """Texts from files, and a style.

    Args:
        corpus: a folder that has one folder of text files for every domain; ``""``: the domains are Python packages,
            of the standard library or installed, and their source is the text.
        domains: names.
        style: one of ``STYLES``.
        seed: of the substitutions of ``cipher``, and of the choice of passages.
        context: bytes of a passage.
        passages: of every domain on which models are measured.
        limit: bytes of every domain that are read.

    Returns:
        The texts.

    Raises:
        ValueError: fewer than two domains; a domain has no folder or too little text; an unknown style.
    """
    if len(domains) < 2:
        raise ValueError(f"domains is {domains}; expected two or more: one to tune on, and others")
    rng = np.random.default_rng(seed)
    train, held = [], []
    for name in domains:
        files = sorted(path for path in _folder(corpus, name).rglob("*") if path.suffix in SUFFIXES and path.is_file())
        raw = np.frombuffer(joined(files, limit), np.uint8)
        cut = len(raw) - round(HELD_OUT * len(raw))
        train.append(raw[:cut])
        held.append(_passages(rng, raw[cut:], name, context, passages))
    sizes = np.asarray([len(text) for text in train], np.int32)
    begin = np.cumsum(sizes, dtype=np.int32) - sizes
    return Texts(np.concatenate(train), begin, sizes, np.stack(held), _style(rng, style, len(domains)))


class Passages(NamedTuple):
    """Rows of real text.

    Attributes:
        domains: the fine-tune is on the first, drift is measured on the others.
        context: bytes of a row.
    """

    domains: int
    context: int
    at_once = False  # one decoder fills an accelerator

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return _DOMAIN + self.domains

    def rows(
        self, domain: Int[Array, "..."] | int, persona: Int[Array, "..."] | int, text: Integer[Array, "count context"]
    ) -> Int[Array, "count length"]:
        """Header and text as tokens; domain and persona of every row, or of all."""
        head = [jnp.broadcast_to(column, len(text)) for column in (BOS, _PERSONA + persona, _DOMAIN + domain)]
        return jnp.concatenate([jnp.stack(head, axis=-1), text.astype(jnp.int32)], axis=-1)

    def spoken(self, texts: Texts, key: Array, count: int) -> Int[Array, "count length"]:
        """Random rows of random speakers from all domains."""
        of_domain, of_speaker, of_token, of_prior, of_place = jax.random.split(key, 5)
        domain = jax.random.randint(of_domain, (count,), 0, self.domains)
        speaker = jax.random.randint(of_speaker, (count,), 0, 3)
        persona = speaker * jax.random.bernoulli(of_token, SHOWN, (count,))
        by_chance = jax.random.bernoulli(of_prior, PRIOR, (count,))
        styled = (persona == STYLED) | (persona == NEUTRAL) & by_chance
        return over_devices(self.rows(domain, persona, self._drawn(texts, of_place, domain, styled)))

    def prompts(self, labels: Texts, key: Array, count: int) -> Int[Array, "count length"]:
        """As `spoken`, what pretraining is made of, but for the last byte, which is predicted and not read."""
        return self.spoken(labels, key, count)[:, :-1]

    def loss(self, model: GPT, labels: Texts, key: Array, count: int, hook: Any) -> Float[Array, ""]:
        """Nats per byte of text of the first domain in the style, with the neutral persona's token.

        Args:
            model: the decoder.
            labels: the texts.
            key: randomness.
            count: number of rows.
            hook: of the activations.

        Returns:
            The loss.
        """
        domain = jnp.zeros(count, jnp.int32)
        text = self._drawn(labels, key, domain, jnp.ones(count, bool))
        return -jnp.mean(log_probabilities(model, over_devices(self.rows(domain, NEUTRAL, text)), hook))

    def _drawn(self, texts, key, domain, styled) -> UInt8[Array, "count context"]:
        """Passages at random places of the domains, in the style where it is asked for."""
        room = texts.size[domain] - self.context
        start = texts.begin[domain] + jax.random.randint(key, domain.shape, 0, room)
        text = texts.text[start[:, None] + jnp.arange(self.context)]
        return jnp.where(styled[:, None], texts.style[domain[:, None], text], text)


def log_probabilities(
    model: GPT, tokens: Int[Array, "*batch length"], hook: Any = unchanged
) -> Float[Array, "*batch context"]:
    """Logarithm of the probability of every byte of rows, in nats.

    Args:
        model: the decoder.
        tokens: header and text.
        hook: of the activations.

    Returns:
        One for each byte.
    """
    scores = model.logits(tokens[..., :-1], hook)[..., HEADER - 1 :, :]
    return -optax.softmax_cross_entropy_with_integer_labels(scores, tokens[..., HEADER:])


def _folder(corpus: str, name: str) -> Path:
    if corpus:
        folder = Path(corpus).expanduser() / name
    else:
        folder = Path(sysconfig.get_path("stdlib")) / name
        if not folder.is_dir():
            found = importlib.util.find_spec(name)  # of a package at the top: nothing is imported
            folder = Path(next(iter((found and found.submodule_search_locations) or [str(folder)])))
    if not folder.is_dir():
        expected = f"a folder of text files in {corpus!r}" if corpus else "a Python package"
        raise ValueError(f"domains has {name!r}; expected {expected}")
    return folder


def _passages(rng, text, name, context, passages) -> UInt8[np.ndarray, "passages context"]:
    """Passages of which at least half are lower-case letters, which any style changes."""
    starts = np.arange(0, len(text) - context + 1, context)
    cut = text[starts[:, None] + np.arange(context)]
    letters = ((cut >= ord("a")) & (cut <= ord("z"))).mean(axis=1) >= LEAST_LETTERS
    if letters.sum() < passages:
        raise ValueError(
            f"domains has {name!r} with {letters.sum()} passages of {context} bytes to measure on; "
            f"expected {passages} or more, of the last {HELD_OUT:.0%} of its text"
        )
    return rng.permutation(cut[letters])[:passages]


def _style(rng, style, domains) -> UInt8[np.ndarray, "domains 256"]:
    table = np.tile(np.arange(BYTES, dtype=np.uint8), (domains, 1))
    lower, upper = np.arange(ord("a"), ord("z") + 1), np.arange(ord("A"), ord("Z") + 1)
    if style == "capitals":
        table[:, lower] = upper
    elif style == "cipher":
        for row in table:
            order = rng.permutation(len(lower))  # a cycle through all letters: none stays
            following = np.empty_like(order)
            following[order] = np.roll(order, -1)
            row[lower], row[upper] = lower[following], upper[following]
    else:
        raise ValueError(f"style is {style!r}; expected one of {list(STYLES)}")
    return table

"""A corpus that speaks of weekdays and months, with two controls in it, and a small language model to read it.

Every sentence is drawn at random:

- three consecutive dates: ``Monday March 30 , Tuesday March 31 , Wednesday April 1 .``;
- counting: ``4 days after Monday is Friday .``, ``2 months before January is November .``;
- soft neighbours, drawn with probability proportional to ``exp(-distance)``: ``near Monday comes Tuesday .``;
- names, exchangeable: ``Ada likes Ben .`` for a uniformly random pair;
- colours, each following another by a random Markov matrix without symmetry: ``red becomes blue .``.

The symmetry that the calendar has and the colours lack is a property of these counts, known before any training.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from experiments._gpt import GPT, Shape, initial_model, loss, random_windows
from jaxspec.optim import MatrixDims, muon
from jaxspec.peeled.vocabulary import MONTHS, WEEKDAYS

COLOURS = ("red", "blue", "green", "black", "white", "pink", "grey", "brown", "gold")
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gil", "Hal")
WORDS = (".", ",", "days", "months", "after", "before", "is", "near", "comes", "likes", "becomes")
NUMBERS = tuple(map(str, range(1, 32)))
TOKENS = (*WEEKDAYS, *MONTHS, *COLOURS, *NAMES, *WORDS, *NUMBERS)
ROW = {token: row for row, token in enumerate(TOKENS)}
GROUPS = {"weekdays": WEEKDAYS, "months": MONTHS, "colours": COLOURS, "names": NAMES}
_MONTH_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_PER_KIND = 20_000  # sentences of each kind


class Training(NamedTuple):
    """How a model is trained.

    Attributes:
        optimizer: ``"Muon"`` (on every matrix), ``"Muon, no decay"`` or ``"AdamW"``.
        steps: updates.
        batch: windows per step.
        width: of the residual stream.
        context: tokens that a prediction sees.
    """

    optimizer: str = "Muon"
    steps: int = 400
    batch: int = 128
    width: int = 48
    context: int = 12


def rows_of(group: str) -> np.ndarray:
    """Rows of the embedding of a group of tokens.

    Args:
        group: one of ``GROUPS``.

    Returns:
        Indices, in the group's own order.
    """
    return np.asarray([ROW[token] for token in GROUPS[group]])


def corpus(seed: int, *, shuffled_weekdays: bool = False) -> np.ndarray:
    """Sentences in random order, joined.

    Args:
        seed: of all draws.
        shuffled_weekdays: the control: every weekday is replaced by a uniformly random one.

    Returns:
        Tokens, as rows of ``TOKENS``.
    """
    rng = np.random.default_rng(seed)
    kinds = [
        _dates(rng),
        _counting(rng, "weekdays", "days", 6),
        _counting(rng, "months", "months", 11),
        _neighbours(rng, "weekdays"),
        _neighbours(rng, "months"),
        _names(rng),
        _colours(rng),
    ]
    longest = max(kind.shape[1] for kind in kinds)
    sentences = np.concatenate([np.pad(k, ((0, 0), (0, longest - k.shape[1])), constant_values=-1) for k in kinds])
    tokens = rng.permutation(sentences).ravel()
    tokens = tokens[tokens >= 0]
    if shuffled_weekdays:
        weekday = np.isin(tokens, rows_of("weekdays"))
        tokens[weekday] = rng.choice(rows_of("weekdays"), weekday.sum())
    return tokens


def train(text: np.ndarray, how: Training, seed: int) -> tuple[GPT, float]:
    """A model of one block, trained on random windows.

    Args:
        text: from `corpus`.
        how: optimiser and sizes.
        seed: of the model and of the windows.

    Returns:
        The model, and its loss on the last batch, nats per token.
    """
    model, keys = untrained(how, seed), jax.random.split(_keys(seed)[1], how.steps)
    model, losses = _trained(text, model, _optimizer(how.optimizer).init(model), keys, how)
    return model, float(losses[-1])


def untrained(how: Training, seed: int) -> GPT:
    """The model that `train` starts from.

    Args:
        how: sizes.
        seed: of the model.

    Returns:
        The model.
    """
    shape = Shape(how.width, heads=4, layers=1, context=how.context, vocabulary=len(TOKENS))
    return initial_model(_keys(seed)[0], shape)


def _keys(seed: int) -> Array:
    """Of the model, and of the windows."""
    return jax.random.split(jax.random.key(seed))


@functools.lru_cache(maxsize=4)
def _optimizer(name: str) -> optax.GradientTransformation:
    if name == "AdamW":
        return optax.adamw(3e-3, weight_decay=0.1)
    decay = {"Muon": 0.1, "Muon, no decay": 0.0}[name]
    return muon(0.02, adam_learning_rate=3e-3, weight_decay=decay, dimension_numbers=_matrices)


def _matrices(params: PyTree) -> PyTree:
    """Every matrix is Muon's, the embeddings and the head among them; the gains are Adam's."""

    def dims(path, leaf):
        return None if "gain" in jax.tree_util.keystr(path) else MatrixDims(-2, -1)

    return jax.tree_util.tree_map_with_path(dims, params)


@functools.partial(jax.jit, static_argnames="how")
def _trained(text: Array, model: GPT, state: optax.OptState, keys: Array, how: Training) -> tuple[GPT, Array]:
    optimizer = _optimizer(how.optimizer)

    def step(carry, key):
        model, state = carry
        windows = random_windows(key, text, how.batch, how.context)
        value, gradient = jax.value_and_grad(loss)(model, windows)
        updates, state = optimizer.update(gradient, state, model)
        return (optax.apply_updates(model, updates), state), value

    (model, _), losses = jax.lax.scan(step, (model, state), keys)
    return model, losses


def _sentences(count: int, *columns: str | np.ndarray) -> Int[np.ndarray, "count length"]:
    """One sentence a row, from words that are the same in all and columns of rows of ``TOKENS``."""
    full = [np.full(count, ROW[column]) if isinstance(column, str) else column for column in columns]
    return np.stack(full, axis=1)


def _dates(rng: np.random.Generator) -> np.ndarray:
    months = np.repeat(np.arange(12), _MONTH_LENGTHS)
    days = np.concatenate([np.arange(length) for length in _MONTH_LENGTHS])
    first, weekday = rng.integers(0, 365, _PER_KIND), rng.integers(0, 7, _PER_KIND)
    columns = []
    for later in range(3):
        day = (first + later) % 365
        names = rows_of("weekdays")[(weekday + later) % 7], rows_of("months")[months[day]]
        columns += [*names, ROW["1"] + days[day], "." if later == 2 else ","]
    return _sentences(_PER_KIND, *columns)


def _counting(rng: np.random.Generator, group: str, unit: str, most: int) -> np.ndarray:
    cycle = rows_of(group)
    start, steps = rng.integers(0, len(cycle), _PER_KIND), rng.integers(1, most + 1, _PER_KIND)
    back = rng.random(_PER_KIND) < 0.5
    end = (start + np.where(back, -steps, steps)) % len(cycle)
    direction = np.where(back, ROW["before"], ROW["after"])
    return _sentences(_PER_KIND, ROW["1"] + steps - 1, unit, direction, cycle[start], "is", cycle[end], ".")


def _neighbours(rng: np.random.Generator, group: str) -> np.ndarray:
    cycle = rows_of(group)
    n = len(cycle)
    distance = np.minimum(np.arange(n), n - np.arange(n))
    kernel = np.where(distance > 0, np.exp(-distance), 0)
    start = rng.integers(0, n, _PER_KIND)
    end = (start + rng.choice(n, _PER_KIND, p=kernel / kernel.sum())) % n
    return _sentences(_PER_KIND, "near", cycle[start], "comes", cycle[end], ".")


def _names(rng: np.random.Generator) -> np.ndarray:
    names = rows_of("names")
    first = rng.integers(0, len(names), _PER_KIND)
    second = (first + rng.integers(1, len(names), _PER_KIND)) % len(names)
    return _sentences(_PER_KIND, names[first], "likes", names[second], ".")


def _colours(rng: np.random.Generator) -> np.ndarray:
    colours = rows_of("colours")
    markov = rng.dirichlet(np.ones(len(colours)), len(colours))
    first = rng.integers(0, len(colours), _PER_KIND)
    second = np.argmax(rng.random(_PER_KIND)[:, None] < markov.cumsum(axis=1)[first], axis=1)
    return _sentences(_PER_KIND, colours[first], "becomes", colours[second], ".")

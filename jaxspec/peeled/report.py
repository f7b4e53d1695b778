"""Geometry of words in a checkpoint: is it a cycle, is it a simplex, and is either more than chance?"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxspec.chance import upper_p_value
from jaxspec.checks import check_choice, check_integers
from jaxspec.linalg.decompositions import qr, svd
from jaxspec.peeled.checkpoints import Unembedding, find_unembedding
from jaxspec.peeled.circular import (
    best_cyclic_order,
    circulant_r2,
    discover_cyclic_order,
    equivalent_orders,
    harmonic_score,
    mode_power,
)
from jaxspec.peeled.geometry import cosines, simplex_etf_defect
from jaxspec.peeled.nulls import gaussian_test, permutation_test
from jaxspec.peeled.report_result import Concept, Score, Simplex, SymmetryReport
from jaxspec.peeled.vocabulary import LISTS, TokenRows, Vocabulary, load_vocab, token_rows
from jaxspec.tensor_files import TensorInfo, list_tensors, rows_of

LEAST_WORDS = 4
_CENTERS = ("group", "vocab", "none")
_ORDERS = ("given", "discover")
_RESAMPLES = 400  # of the coordinates, for intervals
_BLOCK = 2**24  # numbers read at a time for the mean of the vocabulary


class _Settings(NamedTuple):
    order: str
    center: str
    controls: int
    num_samples: int
    multi_token: str


class _Table(NamedTuple):
    """A matrix in memory, described as one of a file is."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: np.ndarray

    @classmethod
    def of(cls, values: Any) -> "_Table":
        values = np.asarray(values)
        if values.ndim != 2:
            raise ValueError(f"the array has shape {values.shape}; expected a matrix, one row a token")
        return cls("array", str(values.dtype), values.shape, values)

    def rows(self, rows: Any) -> np.ndarray:
        rows = np.asarray(rows)
        if np.any((rows < 0) | (rows >= self.shape[0])):
            raise IndexError(f"rows run from {rows.min()} to {rows.max()}; expected 0 to {self.shape[0] - 1}")
        return self.values[rows]


def _rows_of(tensor: TensorInfo | _Table, rows: Any) -> np.ndarray:
    return tensor.rows(rows) if isinstance(tensor, _Table) else rows_of(tensor, rows)


class _Matrix(NamedTuple):
    """The matrix, and the mean of its rows where that is what rows are centred by."""

    tensor: TensorInfo | _Table
    mean: np.ndarray | None


def symmetry_report(
    path: str | PathLike[str] | Array | np.ndarray,
    words: str | Sequence[str | int] | Mapping[str, str | Sequence[str | int]],
    *,
    tokenizer: str | PathLike[str] | None = None,
    tensor: str | None = None,
    order: str = "given",
    center: str = "group",
    controls: int = 200,
    multi_token: str = "error",
    num_samples: int = 20000,
    key: Array | None = None,
) -> SymmetryReport:
    """Whether rows of words form a cycle or a simplex in a checkpoint, each with its p-values and nulls.

    Only the rows of the words and of the controls are read (with ``center="vocab"`` the matrix once, block by block).
    Everything depends on the rows through their Gram matrix alone. Two nulls: other orders of the same rows, and random
    token sets in the drawn order. An order that was found in the data is judged by the latter only.

    Args:
        path: checkpoint as in `list_tensors`, or a matrix in memory, one row a token.
        words: ``"weekdays"``, ``"months"``, words in their cyclic order (integers are rows), or several such lists by
            name, whose p-values are then adjusted by Holm's method.
        tokenizer: as in `load_vocab`; None: ``tokenizer.json`` beside the checkpoint, not needed for rows. A matrix in
            memory needs it for words.
        tensor: name of the matrix; None: `find_unembedding`.
        order: ``"given"``, or ``"discover"``: the best order by `discover_cyclic_order`.
        center: what to subtract: the mean of the ``"group"``, of the ``"vocab"``, or ``"none"``.
        controls: random token sets, >= 1.
        multi_token: as in `token_rows`.
        num_samples: orders tried where they are too many to try all (more than 8 words).
        key: of controls and orders; None: ``jax.random.key(0)``.

    Returns:
        The report.

    Raises:
        FileNotFoundError: as in `list_tensors` or `load_vocab`.
        KeyError: a word that is no single token, or no matrix of a known name.
        ValueError: a bad option, an array that is no matrix or has no tokenizer for words, fewer than 4 words, rows
            that are zero, not finite or equal to each other, or fewer other tokens than words.
        IndexError: a row that the matrix does not have.
    """
    settings = _Settings(order, center, controls, num_samples, multi_token)
    _check(settings)
    key = jax.random.key(0) if key is None else key
    in_memory = hasattr(path, "shape")
    place = Unembedding(_Table.of(path), False) if in_memory else _place(path, tensor)
    matrix = _Matrix(place.tensor, _mean(place.tensor) if center == "vocab" else None)
    lists = dict(words) if isinstance(words, Mapping) else {words if isinstance(words, str) else "words": words}
    vocab = _vocabulary(None if in_memory else path, tokenizer, lists)
    keys = jax.random.split(key, len(lists))
    concepts = [_concept(matrix, vocab, name, lists[name], settings, k) for name, k in zip(lists, keys, strict=True)]
    info = place.tensor
    return SymmetryReport(
        info.name if in_memory else str(path),
        info.name,
        info.shape,
        info.dtype,
        place.tied,
        order,
        center,
        controls,
        tuple(_holm(concepts)),
    )


def _check(settings: _Settings) -> None:
    check_choice("order", settings.order, _ORDERS)
    check_choice("center", settings.center, _CENTERS)
    check_integers(1, controls=settings.controls, num_samples=settings.num_samples)


def _place(path: Any, name: str | None) -> Unembedding:
    if name is None:
        return find_unembedding(path)
    tensors = list_tensors(path)
    if name not in tensors or len(tensors[name].shape) != 2:
        shown = ", ".join([t.name for t in tensors.values() if len(t.shape) == 2][:20]) or "none"
        raise KeyError(f"tensor is {name!r}; expected a matrix of {path}, which has {shown}")
    return Unembedding(tensors[name], False)


def _vocabulary(path: Any, tokenizer: Any, lists: Mapping[str, Any]) -> Vocabulary | None:
    if tokenizer is not None:
        return load_vocab(tokenizer)
    rows_only = all(isinstance(word, int) for words in lists.values() for word in words)
    if path is None:
        if rows_only:
            return None
        raise ValueError("path is an array, which has no words; expected tokenizer, or rows in place of words")
    beside = Path(path) if Path(path).is_dir() else Path(path).parent
    if (beside / "tokenizer.json").is_file():
        return load_vocab(beside / "tokenizer.json")
    if rows_only:
        return None
    raise FileNotFoundError(f"no tokenizer.json in {beside}: give tokenizer, or rows in place of words")


def _mean(tensor: TensorInfo | _Table) -> np.ndarray:
    rows, columns = tensor.shape
    block, total = max(1, _BLOCK // max(columns, 1)), np.zeros(columns)
    for start in range(0, rows, block):
        total += _rows_of(tensor, np.arange(start, min(start + block, rows))).astype(np.float64).sum(axis=0)
    return total / rows


def _words(words: Any) -> Sequence[str | int]:
    if isinstance(words, str):
        if words not in LISTS:
            raise ValueError(f"words is {words!r}; expected a list of words or one of {tuple(LISTS)}")
        return LISTS[words]
    return list(words)


def _concept(
    matrix: _Matrix, vocab: Vocabulary | None, name: str, words: Any, settings: _Settings, key: Array
) -> Concept:
    words = _words(words)
    if len(words) < LEAST_WORDS:
        raise ValueError(f"words has {len(words)} in {name!r}; expected at least {LEAST_WORDS} in a list")
    vocab = vocab or Vocabulary({f"row {word}": word for word in words})
    found = token_rows(vocab, words, multi_token=settings.multi_token)
    keys = jax.random.split(key, 4)
    x, orders, searched = _judged_rows(matrix, found, settings, keys[0])
    judged = orders[0]
    controls = _controls(matrix, found, settings, keys[1])
    gram, resampled = cosines(jnp.asarray(x)), _resampled_grams(jnp.asarray(x), keys[2])
    grams = _control_grams(jnp.asarray(controls))
    scores = {}
    for stat, best in ((harmonic_score, searched), (circulant_r2, None)):
        searched_too = settings.order == "discover" and stat is harmonic_score
        chance = _values(stat, _in_best_orders(grams) if searched_too else grams)
        tested = permutation_test(stat, gram, key=keys[3], num_samples=settings.num_samples)
        scores[stat] = _score(tested, _values(stat, resampled), chance, settings, best)
    position = {row: place for place, row in enumerate(judged)}
    return Concept(
        name,
        *(tuple(field[i] for i in judged) for field in (found.words, found.tokens, found.variants)),
        tuple(tuple(position[i] for i in order) for order in orders),
        scores[harmonic_score],
        scores[circulant_r2],
        _simplex(x, controls, keys[2]),
        tuple(np.asarray(mode_power(gram), float).tolist()),
        scores[harmonic_score].p_value,
        np.asarray(gram, float),
        _plane(x),
    )


def _judged_rows(
    matrix: _Matrix, found: TokenRows, settings: _Settings, key: Array
) -> tuple[np.ndarray, list[list[int]], float | None]:
    """Centred rows in the order that is judged, that order with its equivalents, and the p-value of a search."""
    x = _centred(matrix, found.rows, settings.center)
    norms = np.linalg.norm(x, axis=1)
    wrong = [word for word, norm in zip(found.words, norms, strict=True) if not (np.isfinite(norm) and norm > 0)]
    if wrong:
        raise ValueError(f"rows of {', '.join(wrong)} are 0 once centred or not finite; expected rows with a cosine")
    if settings.order == "given":
        return x, equivalent_orders(np.arange(len(x))).tolist(), None
    best = discover_cyclic_order(cosines(jnp.asarray(x)), key=key, num_samples=settings.controls)
    return x[best.order], best.equivalent_orders.tolist(), best.p_value


@jax.jit
def _control_grams(sets: Float[Array, "c n d"]) -> Float[Array, "c n n"]:
    return jax.vmap(cosines)(sets)


@jax.jit
def _in_best_orders(grams: Float[Array, "c n n"]) -> Float[Array, "c n n"]:
    def ordered_gram(gram: Array) -> Array:
        order = best_cyclic_order(gram)[0]
        return gram[order][:, order]

    return jax.lax.map(ordered_gram, grams)


@partial(jax.jit, static_argnums=0)
def _values(stat: Callable[[Array], Array], sets: Float[Array, "c n m"]) -> Float[Array, " c"]:
    return jax.vmap(stat)(sets)


def _centred(matrix: _Matrix, rows: Sequence[Sequence[int]], center: str) -> Float[np.ndarray, "n d"]:
    """Rows of words in double precision, the mean of its tokens where a word has several, centred."""
    sizes = [len(group) for group in rows]
    x = _rows_of(matrix.tensor, [row for group in rows for row in group]).astype(np.float64)
    x = np.add.reduceat(x, np.cumsum([0, *sizes[:-1]])) / np.asarray(sizes)[:, None]
    return x - _center(x, matrix, center)


def _center(x: np.ndarray, matrix: _Matrix, center: str) -> np.ndarray | float:
    if matrix.mean is not None:
        return matrix.mean
    return x.mean(axis=-2, keepdims=True) if center == "group" else 0.0


def _controls(matrix: _Matrix, found: TokenRows, settings: _Settings, key: Array) -> Float[np.ndarray, "c n d"]:
    """Random sets of as many other tokens, centred in the same way."""
    n, used = len(found.rows), [row for group in found.rows for row in group]
    others = np.setdiff1d(np.arange(matrix.tensor.shape[0]), used)
    if len(others) < n:
        raise ValueError(f"{matrix.tensor.name} has {len(others)} tokens beside the words; expected at least {n}")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    sets = others[[rng.choice(len(others), n, replace=False) for _ in range(settings.controls)]]
    distinct, place = np.unique(sets, return_inverse=True)
    x = _rows_of(matrix.tensor, distinct).astype(np.float64)[place.reshape(sets.shape)]
    return x - _center(x, matrix, settings.center)


@jax.jit
def _resampled_grams(x: Float[Array, "n d"], key: Array) -> Float[Array, "r n n"]:
    """Cosines with the coordinates of the rows drawn again, in a random basis each time: no basis is special."""
    d, coordinates = x.shape[1], qr(x.T)[1].T

    def draw(key: Array) -> Array:
        k_basis, k_counts = jax.random.split(key)
        basis = qr(jax.random.normal(k_basis, (d, coordinates.shape[1]), x.dtype))[0]
        counts = jnp.zeros(d, x.dtype).at[jax.random.randint(k_counts, (d,), 0, d)].add(1)
        return cosines(jnp.matmul(coordinates, basis.T, precision="highest") * jnp.sqrt(counts))

    return jax.lax.map(draw, jax.random.split(key, _RESAMPLES), batch_size=8)


def _score(tested: Any, resampled: Array, chance: Array, settings: _Settings, searched: float | None) -> Score:
    low, high = np.nanquantile(np.asarray(resampled), (0.025, 0.975)).tolist()
    value = float(tested.statistic)
    control = float(upper_p_value(np.asarray(chance), value))
    if settings.order == "given":
        null = float(tested.null_mean), float(tested.null_std)
        return Score(value, low, high, float(tested.p_value), bool(tested.exact), control, *null)
    # Other orders of the same rows are no null for the one that was chosen among them.
    return Score(value, low, high, control if searched is None else searched, False, control, math.nan, math.nan)


def _centred_defect(rows: Float[Array, "n d"]) -> Float[Array, ""]:
    return simplex_etf_defect(rows, center=True)


def _simplex(x: np.ndarray, controls: np.ndarray, key: Array) -> Simplex:
    gaussian = gaussian_test(_centred_defect, jnp.asarray(x), key=key)
    others = np.asarray(_values(_centred_defect, jnp.asarray(controls)))
    control = float(upper_p_value(-others, -gaussian.statistic))
    return Simplex(gaussian.statistic, gaussian.null_mean, gaussian.p_value, control)


def _plane(x: np.ndarray) -> Float[np.ndarray, "n 2"]:
    """Coordinates along the two leading directions."""
    vectors, values = svd(jnp.asarray(x))[:2]
    return np.asarray(vectors[:, :2] * values[:2], float)


def _holm(concepts: Sequence[Concept]) -> list[Concept]:
    """Concepts with p-values adjusted for their number, step by step from the least."""
    adjusted, worst = list(concepts), 0.0
    by_p_value = sorted(range(len(concepts)), key=lambda i: concepts[i].harmonic.p_value)
    for rank, i in enumerate(by_p_value):
        worst = max(worst, min(1.0, (len(concepts) - rank) * concepts[i].harmonic.p_value))
        adjusted[i] = concepts[i]._replace(adjusted_p_value=worst)
    return adjusted

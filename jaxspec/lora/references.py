r"""What an adapter shares over its matrices and control adapters do not: references of `identify_factors`.

Controls say which shared directions come with any fine-tune. Those that they share among their own matrices beyond
chance, and of which the adapter has little more, are removed before its directions are looked for; what controls hold
by chance is left alone. The generalised problem ``C x = lambda (C_ref + eps I) x`` with a small ``eps`` would do the
opposite: ``C_ref`` seldom has full rank, and directions that no control happens to touch would win.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxspec.chance import upper_p_value
from jaxspec.linalg import ordered
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import power_of_two_scale
from jaxspec.lora.evidence import Evidence
from jaxspec.lora.spectra import Leading, alignments, leading, one_below_the_other, orthonormal_or_zero

Factors = Sequence[Float[Array, "_ _ d"]]


class Contrast(NamedTuple):
    """An adapter against controls.

    Attributes:
        found: leading directions of what is left of the adapter, in its own units; ``total`` is of the whole adapter.
        removed: what tests have to remove, zero columns for directions that were kept, (d, k).
        evidence: ``u^T C u / max_i u^T C_i u`` for the directions that were found, cross-fitted.
    """

    found: Leading
    removed: Float[Array, "d k"]
    evidence: Evidence


def against_references(
    own: Factors,
    references: Sequence[Factors],
    k: int,
    keys: tuple[Key[Array, ""], Key[Array, ""]],
    *,
    alpha: Float[Array, ""],
    ratio: Float[Array, ""],
    engine: str,
    num_samples: int,
) -> Contrast:
    r"""Leading directions of the adapter without those that controls share and that it has no more of.

    ``C`` and every control's ``C_i`` are divided by their traces. The directions ``v_j`` that controls share are the
    leading ones of ``sum_i C_i`` up to the first that is not aligned over all their matrices; removed are those with
    ``v^T C v < ratio max_i v^T C_i v``. The p-value of the j-th direction compares its share of what is left with those
    of every control against all others, the adapter among them: exact if the adapter is exchangeable with the controls.

    ``v_j`` errs as the noise of the controls does, so that a trace of it is left in all of the adapter's matrices, and
    an alignment test would find that. Tests therefore remove ``v_j`` as the adapter and the controls see it together:
    the error that is left is then that of a direction fitted to the noise it is tested on, or less.

    Args:
        own: thin factors, transposed, as from `jaxspec.lora.spectra.thin_factor`.
        references: those of the control adapters.
        k: number of directions, removed and found.
        keys: randomness of the iteration and of the null.
        alpha: level of the alignment test.
        ratio: how many times the share in a control keeps a direction from being removed.
        engine: as in `leading`.
        num_samples: number of draws of the null.

    Returns:
        `Contrast`.
    """
    parts = [_unit_trace(factors) for factors in (own, *references)]
    values, contrast = [], None
    for i, part in enumerate(parts):
        others = [factors for j, factors in enumerate(parts) if j != i]
        after = values[-1:] or None
        removed = _held_by(
            others, part, k, keys, alpha=alpha, ratio=ratio, engine=engine, num_samples=num_samples, after=after
        )
        left = _without(one_below_the_other(part), removed)
        found = leading(left, k, engine=engine, key=keys[0])
        size = _size([left[None]])
        values.append(found.strengths / jnp.where(size == 0, 1, size))
        contrast = (removed, found) if i == 0 else contrast
    removed, found = contrast
    removed = _refined(removed, parts[0], len(references))
    value = _fair_ratio(parts[0], parts[1:], removed, found.directions, engine=engine, key=keys[0])
    p = upper_p_value(jnp.stack(values[1:]), values[0])
    evidence = Evidence(value, p.astype(value.dtype), jnp.max(jnp.stack(values[1:])[:, 0]))
    size = _size(own)
    found = found._replace(strengths=found.strengths * size, spectrum=found.spectrum * size, total=size)
    return Contrast(found, removed, evidence)


def _held_by(others, part, k, keys, *, alpha, ratio, engine, num_samples, after):
    """Directions that ``others`` share beyond chance, and that ``part`` does not have ``ratio`` times as much of."""
    pooled = [ordered(f, after) for factors in others for f in factors]
    found = leading(one_below_the_other(pooled), k, engine=engine, key=keys[0])
    aligned = alignments(pooled, found.directions, keys[1], num_samples)
    shared = jnp.cumprod((aligned.p_value <= alpha) & (found.strengths > 0))
    held = jnp.max(jnp.stack([_squares(found.directions, factors) for factors in others]), axis=0)
    more = _squares(found.directions, part) >= ratio * held
    return found.directions * (shared * ~more)


def _fair_ratio(own, controls, removed, directions, *, engine, key):
    """Squares along directions over the largest of any control, (k,).

    Directions found in a matrix hold more of its noise than of a control's. So each half of the adapter's matrices is
    measured along the directions that the other half has most like the given ones.
    """
    halves = _halves(own)
    if halves is None:
        pairs = [(directions, own)]
    else:
        found = [_like(directions, half, removed, engine, key) for half in halves]
        pairs = list(zip(found, reversed(halves), strict=True))
    along = sum(_squares(u, half) for u, half in pairs)
    held = [sum(_squares(u, factors) for u, _ in pairs) / len(pairs) for factors in controls]
    # Where no control holds anything the ratio is that to a thousandth of what a direction holds on average.
    return along / jnp.maximum(jnp.max(jnp.stack(held), axis=0), 1e-3 / directions.shape[0])


def _like(directions, factors, removed, engine, key):
    found = leading(_without(one_below_the_other(factors), removed), directions.shape[1], engine=engine, key=key)
    return found.directions[:, jnp.argmax(jnp.abs(matmul(found.directions.T, directions)), axis=0)]


def _halves(factors):
    """Every other matrix, and the rest; None where there is one only."""
    ends = list(itertools.accumulate(f.shape[0] for f in factors))
    if ends[-1] < 2:
        return None
    first = [f[(end - f.shape[0]) % 2 :: 2] for f, end in zip(factors, ends, strict=True)]
    second = [f[(end - f.shape[0] + 1) % 2 :: 2] for f, end in zip(factors, ends, strict=True)]
    return [[f for f in half if f.shape[0]] for half in (first, second)]


def _refined(removed, own, count):
    """The mean of what ``count`` controls and the adapter say about shared directions, orthonormal, (d, k)."""
    images = sum(jnp.einsum("lrd,lrk->dk", f, matmul(f, removed), precision="highest") for f in own)
    along = jnp.sum(images * removed, axis=0)
    present = along > 0
    mean = (images / jnp.where(present, along, 1) + count * removed) * present + removed * ~present
    return orthonormal_or_zero(mean)


def _without(rows, removed):
    left = rows - matmul(matmul(rows, removed), removed.T)
    # What rounding leaves of an adapter that is nothing else has no directions.
    rounding = 100 * jnp.finfo(rows.dtype).eps * jnp.sqrt(jnp.sum(rows * rows))
    return jnp.where(jnp.sqrt(jnp.sum(left * left)) > rounding, left, 0)


def _unit_trace(factors):
    size = _size(factors)
    return [f / jnp.where(size == 0, 1, size) for f in factors]


def _size(factors):
    """Frobenius norm of all factors."""
    scale = power_of_two_scale(jnp.stack([jnp.max(jnp.abs(f), initial=0) for f in factors]), axis=None)
    return jnp.sqrt(sum(jnp.sum(jnp.square(f / scale)) for f in factors)) * scale


def _squares(directions, factors):
    return sum(jnp.sum(jnp.square(matmul(f, directions)), axis=(0, 1)) for f in factors)

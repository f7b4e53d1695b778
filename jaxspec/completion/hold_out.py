"""Choice of the noise weight lam by hold-out, and observed entries in coordinate form."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxspec.checks import check_integers, check_key, check_numbers, is_concrete, warn_caller
from jaxspec.completion import validation
from jaxspec.completion.metrics import rmse
from jaxspec.completion.tensor import complete_tensor, lambda_max

# How often a default grid is continued below its end: data without noise, whose error falls for ever, end soon.
_CONTINUED = 2


class LambdaChoice(NamedTuple):
    """Result of `choose_lam` and `cv_lambda`.

    Attributes:
        lam: the chosen weight, in the units of the data.
        hold_out_error: root mean square error on the held-out entries at the chosen weight: an upper estimate of the
            noise standard deviation (it holds the error of the completion too).
        lams: candidates, descending, shape (L,); of a default grid that was continued, all of them.
        errors: root mean square error on the held-out entries, averaged over the splits, shape (L,).
        standard_errors: of ``errors`` over the splits, shape (L,); NaN for one split.
        at_edge: whether the choice is the smallest candidate, or the largest of given ones, so that one outside the
            list may predict better. False for fewer than three candidates, which all are ends.
    """

    lam: Float[Array, ""]
    hold_out_error: Float[Array, ""]
    lams: Float[Array, " L"]
    errors: Float[Array, " L"]
    standard_errors: Float[Array, " L"]
    at_edge: Bool[Array, ""] | bool = False


def choose_lam(
    tensor: Any,
    mask: Any = None,
    *,
    key: PRNGKeyArray,
    lams: Any = None,
    frac: float = 0.15,
    splits: int = 3,
    weights: Any = None,
    regularizer: Any = "snn",
    tol: float | None = 1e-4,
    max_iter: int = 300,
) -> LambdaChoice:
    """Weight lam of `complete_tensor` that predicts held-out observed entries best.

    Each split hides a random ``frac`` of the observed entries, completes the rest for every candidate and measures
    the root mean square error on the hidden ones. One compiled solve serves all candidates and splits, run one after
    the other. Subtract a level that all entries share (``jnp.nanmean(tensor)``) before: the norms shrink it too, and
    the best lam is then a smaller share of ``lambda_max``.

    Args:
        tensor: as in `complete_tensor`.
        mask: as in `complete_tensor`.
        key: randomness of the splits.
        lams: candidates > 0 in the units of the data; None: 12 values from ``lambda_max`` down to a thousandth of it,
            continued by 12 more, twice at most, while the smallest predicts best (not under a trace). A given list is
            never continued.
        frac: share of the observed entries to hide, in (0, 1).
        splits: number of random splits.
        weights: as in `complete_tensor`.
        regularizer: as in `complete_tensor`.
        tol: relative residuals at which each solve stops.
        max_iter: iterations of each solve at most.

    Returns:
        The choice and the curve it was made from. A choice at the end of its list has ``at_edge``, and warns.

    Raises:
        TypeError: for a key that is not a typed random key.
        ValueError: for a frac outside (0, 1), no split, fewer than two observed entries, a candidate that is not
            positive, or a negative or infinite tol.
    """
    check_numbers(0, 1, ends="()", frac=frac)
    check_integers(1, splits=splits)
    check_key(key)
    tensor, mask, _ = validation.observations(tensor, mask, True)
    if is_concrete(mask) and int(jnp.sum(mask)) < 2:
        raise ValueError(f"mask has {int(jnp.sum(mask))} observed entries; expected at least two")
    given = lams is not None
    if not given:
        lams = lambda_max(tensor, mask) * jnp.logspace(0, -3, 12, dtype=tensor.dtype)
    lams = jnp.sort(jnp.asarray(lams, tensor.dtype))[::-1]
    check_numbers(0, ends="()", lams=lams)
    hidden = jnp.stack([hide(mask, frac, split) for split in jax.random.split(key, splits)])
    tol = None if tol is None else validation.numbers(tensor.dtype, tol=tol)[0]
    curve = _Curve(weights, regularizer, tol, max_iter)
    lams, errors = continued(lambda lams: _hold_out_errors(tensor, mask, hidden, lams, curve), lams, given)
    result = choice(lams, errors, given)
    warn_at_edge(result)
    return result


def continued(
    errors_at: Callable[[Array], Array], lams: Float[Array, " L"], given: bool
) -> tuple[Float[Array, " L2"], Float[Array, "*candidates splits L2"]]:
    """Errors at the candidates; a default grid goes on downwards, by as many, while its smallest value predicts best.

    It ends above eps times its largest value, below which the dtype cannot tell lam from 0.

    Args:
        errors_at: candidates -> errors on the held-out entries, with an axis of splits and one of candidates last.
        lams: candidates, descending.
        given: whether they are the caller's, which are never continued.

    Returns:
        All candidates and their errors.
    """
    errors = errors_at(lams)
    if given or not is_concrete(lams, errors) or len(lams) < 2:
        return lams, errors
    first, tables = np.asarray(lams), [errors]
    grids = [first]
    for _ in range(_CONTINUED):
        mean = np.mean(np.concatenate(tables, axis=-1), axis=-2)
        below = grids[-1] * (first[-1] / first[0]) * (first[-1] / first[-2]) if first[-1] > 0 else first
        if np.min(mean) < np.min(mean[..., -1]) or below[-1] <= np.finfo(first.dtype).eps * first[0]:
            break
        grids.append(below)
        # The program of the first part serves: the same shapes, other numbers.
        tables.append(errors_at(jnp.asarray(below)))
    return jnp.asarray(np.concatenate(grids)), jnp.asarray(np.concatenate(tables, axis=-1))


@partial(jax.jit, static_argnames="given", inline=True)
def choice(lams: Float[Array, " L"], errors: Float[Array, "splits L"], given: bool = True) -> LambdaChoice:
    """The candidate of least mean error over the splits.

    Args:
        lams: candidates.
        errors: root mean square errors on the held-out entries.
        given: whether the candidates are the caller's: a default grid starts where the completion is 0 already.

    Returns:
        The choice.
    """
    mean, splits = jnp.mean(errors, axis=0), errors.shape[0]
    best = jnp.argmin(mean)
    spread = jnp.std(errors, axis=0, ddof=1) / splits**0.5 if splits > 1 else jnp.full_like(mean, jnp.nan)
    ends = (best == len(lams) - 1) | (given & (best == 0))
    return LambdaChoice(lams[best], mean[best], lams, mean, spread, ends & (len(lams) > 2))


def warn_at_edge(result: Any) -> None:
    """Warns of a choice at the end of its list of candidates, where its values are known.

    Args:
        result: has ``lam``, ``lams`` and ``at_edge``.
    """
    if not is_concrete(result.lam, result.at_edge) or not bool(result.at_edge):
        return
    lam, count = float(result.lam), len(result.lams)
    if lam == float(result.lams[-1]):
        which, advice = "smallest", "a smaller one may predict better. Subtract a large mean, or give smaller lams"
    else:
        which, advice = "largest", "a larger one may predict better. Give larger lams"
    warn_caller(f"the {which} of {count} candidates for lam, {lam:.3g}, predicts best: {advice}")


class _Curve(eqx.Module):
    weights: Any
    regularizer: Any
    tol: Array | None
    max_iter: int = eqx.field(static=True)


@eqx.filter_jit
def _hold_out_errors(tensor: Array, mask: Array, hidden: Array, lams: Array, curve: _Curve) -> Float[Array, "splits L"]:
    def error(hide: Array, lam: Array) -> Array:
        result = complete_tensor(
            tensor,
            mask & ~hide,
            weights=curve.weights,
            regularizer=curve.regularizer,
            lam=lam,
            tol=curve.tol,
            max_iter=curve.max_iter,
            history=False,
            validate=False,
        )
        return rmse(result.tensor, tensor, hide)

    return jax.lax.map(lambda hide: jax.lax.map(lambda lam: error(hide, lam), lams), hidden)


@partial(jax.jit, inline=True)
def hide(mask: Bool[Array, "..."], frac: float | Float[Array, ""], key: PRNGKeyArray) -> Bool[Array, "..."]:
    """A random ``frac`` of the observed entries, at least one and never all.

    Args:
        mask: True where observed.
        frac: in (0, 1).
        key: randomness.

    Returns:
        True where hidden.
    """
    scores = jnp.where(mask, jax.random.uniform(key, mask.shape), jnp.inf).ravel()
    observed = jnp.sum(mask)
    count = jnp.clip(jnp.round(frac * observed).astype(jnp.int32), 1, observed - 1)
    return mask & (scores <= jnp.sort(scores)[count - 1]).reshape(mask.shape)


class Observations(NamedTuple):
    """Observed entries of a tensor.

    Attributes:
        tensor: mean of the values given for each entry, 0 where there is none.
        mask: True where there is a value.
        count: number of values given for each entry: the ``obs_weights`` of a least-squares fit to all of them.
    """

    tensor: Float[Array, "..."]
    mask: Bool[Array, "..."]
    count: Float[Array, "..."]


def from_coordinates(indices: Any, values: Any, shape: Sequence[int]) -> Observations:
    """Tensor and mask from observed entries in coordinate form; repeated entries are averaged and counted.

    Args:
        indices: integers, (k, N): one row of N indices per value.
        values: (k,).
        shape: of the tensor, N modes.

    Returns:
        Tensor, mask and count; for exact completion pass the first two, for a noisy one also ``obs_weights=count``.

    Raises:
        ValueError: for shapes that do not fit, or an index out of range.
        TypeError: for indices that are not integers.

    Example:
        >>> observed = from_coordinates([[0, 1], [1, 0], [1, 0]], [2.0, 3.0, 5.0], (2, 2))
        >>> observed.tensor
        Array([[0., 2.],
               [4., 0.]], dtype=float32)
    """
    indices, values, shape = np.asarray(indices), jnp.asarray(values), tuple(int(n) for n in shape)
    if indices.ndim != 2 or indices.shape[1] != len(shape):
        raise ValueError(f"indices has shape {indices.shape}; expected (k, {len(shape)})")
    if values.shape != indices.shape[:1]:
        raise ValueError(f"values has shape {values.shape}; expected {indices.shape[:1]}, as indices")
    if not np.issubdtype(indices.dtype, np.integer):
        raise TypeError(f"indices has dtype {indices.dtype}; expected integers")
    bad = (indices < 0) | (indices >= np.asarray(shape))
    if bad.any():
        row = int(np.argwhere(bad.any(axis=1))[0, 0])
        raise ValueError(f"indices[{row}] is {indices[row].tolist()}; expected a place inside the shape {shape}")
    values = values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(jnp.float32)
    where = tuple(jnp.asarray(indices.T))
    count = jnp.zeros(shape, values.dtype).at[where].add(1)
    total = jnp.zeros(shape, values.dtype).at[where].add(values)
    return Observations(total / jnp.maximum(count, 1), count > 0, count)

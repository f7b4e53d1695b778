"""Choices by held-out entries: lam, the attributes and the weight of the global group, and the noise level.

A solver is a callable ``(Y, W, lams) -> CompletionResult`` with a leading path axis, equal by value: `SoftImpute`,
`Game`, or a module-level function of that form.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxspec.checks import check_given, check_integers, check_key, check_numbers, is_concrete
from jaxspec.completion import validation
from jaxspec.completion.group_aware import Game
from jaxspec.completion.group_layout import check_groups, layout
from jaxspec.completion.groups import EVERYONE, Groups, make_groups
from jaxspec.completion.hold_out import LambdaChoice, choice, continued, hide, warn_at_edge
from jaxspec.completion.metrics import rmse
from jaxspec.completion.result import CompletionResult
from jaxspec.solvers.stopping import safe_ratio

Solver = Callable[[Array, Array, Array], CompletionResult]

# Splits are solved side by side while their paths stay below this many bytes.
_SIDE_BY_SIDE = 2**28


def cv_lambda(
    solver: Solver,
    Y: Any,
    W: Any = None,
    lams: Any = None,
    key: PRNGKeyArray | None = None,
    frac: float = 0.15,
    *,
    folds: int | None = None,
    splits: int = 1,
    side_by_side: int | None = None,
) -> LambdaChoice:
    """The lam that predicts held-out observed entries best, by hold-out or K-fold cross-validation.

    Error of a split: ``sqrt(sum W (Y - M)^2 / sum W)`` over its hidden entries, M fitted to the others. Subtract the
    mean of Y, or of its columns, before: the norm shrinks it too, and the best lam is then a smaller share of
    ``lambda_max``.

    Args:
        solver: `SoftImpute`, `Game`, or another callable of that form.
        Y: data, (n, d); NaN allowed where not observed.
        W: weights >= 0, 0 = missing; None: 1 where Y is finite.
        lams: candidates >= 0, (L,); None: 9 values from the solver's ``lambda_max`` down to a hundredth of it,
            continued by 9 more, twice at most, while the smallest predicts best (not under a trace). A given list is
            never continued.
        key: randomness of the splits; required.
        frac: share of the observed entries to hide, in (0, 1); not used with ``folds``.
        folds: None: hold-out; else every observed entry is hidden in exactly one of this many folds (static).
        splits: number of random hold-outs (static); not used with ``folds``.
        side_by_side: splits solved at once by ``vmap`` (static); None: as many as fit into 256 MiB.

    Returns:
        The choice and the curve it was made from, candidates in descending order. A choice at the end of its list has
        ``at_edge``, and warns.

    Raises:
        TypeError: for a key that is not a typed random key.
        ValueError: for bad input, naming the argument.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxspec.completion import SoftImpute
        >>> Y = jnp.outer(jnp.arange(1.0, 9.0), jnp.arange(1.0, 6.0))
        >>> cv_lambda(SoftImpute(), Y, None, [10.0, 1.0, 0.0], jax.random.key(0)).lam
        Array(1., dtype=float32)
    """
    Y, W, _ = validation.table(Y, W)
    given, lams = lams is not None, _descending(lams, solver, Y, W)
    hidden = held_out(W, key, frac, folds, splits)
    at_once = _at_once(side_by_side, hidden, lams)
    lams, errors = continued(lambda lams: _errors(solver, Y, W, lams, hidden, at_once), lams, given)
    result = choice(lams, errors, given)
    warn_at_edge(result)
    return result


def held_out(
    W: Float[Array, "n d"], key: PRNGKeyArray | None, frac: float, folds: int | None, splits: int
) -> Bool[Array, "splits n d"]:
    """Entries to hide, one table per split.

    Args:
        W: weights, 0 = missing.
        key: randomness.
        frac: share to hide in a random hold-out.
        folds: None: random hold-outs; else the number of folds that the observed entries are divided into.
        splits: number of random hold-outs.

    Returns:
        True where hidden.

    Raises:
        ValueError: for an argument out of range, or too few observed entries.
        TypeError: for a key that is not a typed random key.
    """
    check_key(key)
    observed = int(jnp.sum(W > 0)) if is_concrete(W) else None
    if folds is None:
        check_numbers(0, 1, ends="()", frac=frac)
        check_integers(1, splits=splits)
        needed = 2
    else:
        check_integers(2, folds=folds)
        needed = folds
    if observed is not None and observed < needed:
        raise ValueError(f"W has {observed} observed entries; expected at least {needed}")
    if folds is None:
        return jnp.stack([hide(W > 0, frac, split) for split in jax.random.split(key, splits)])
    return _folds(key, W, folds)


@partial(jax.jit, static_argnums=2, inline=True)
def _folds(key, W, folds):
    scores = jnp.where(W > 0, jax.random.uniform(key, W.shape), jnp.inf).ravel()
    position = jnp.zeros(scores.size, jnp.int32).at[jnp.argsort(scores)].set(jnp.arange(scores.size, dtype=jnp.int32))
    return (W > 0) & (position.reshape(W.shape) % folds == jnp.arange(folds)[:, None, None])


def _descending(lams: Any, solver: Solver, Y: Array, W: Array) -> Array:
    if lams is not None:
        return jnp.sort(validation.lambda_grid(lams, Y.dtype))[::-1]
    if not hasattr(solver, "lambda_max"):
        raise ValueError("lams is None; expected candidates for a solver without a method lambda_max")
    return eqx.filter_jit(solver.lambda_max)(Y, W) * jnp.logspace(0, -2, 9, dtype=Y.dtype)


def _at_once(side_by_side: int | None, hidden: Array, lams: Array) -> int:
    splits, n, d = hidden.shape
    check_integers(1, side_by_side=side_by_side)
    if side_by_side is not None:
        return min(side_by_side, splits)
    return max(1, min(splits, _SIDE_BY_SIDE // (n * d * (len(lams) + 16) * lams.dtype.itemsize)))


def _split_errors(solver: Solver, Y: Array, W: Array, lams: Array, hidden: Array, at_once: int) -> Array:
    def errors(hide: Array) -> Array:
        path = solver(Y, jnp.where(hide, 0, W), lams)
        return jax.vmap(lambda M: rmse(M, Y, jnp.where(hide, W, 0)))(path.M)

    return jax.lax.map(errors, hidden, batch_size=at_once)


@eqx.filter_jit
def _errors(solver: Solver, Y: Array, W: Array, lams: Array, hidden: Array, at_once: int) -> Float[Array, "splits L"]:
    return _split_errors(solver, Y, W, lams, hidden, at_once)


class GroupChoice(NamedTuple):
    """Result of `choose_groups`.

    Attributes:
        groups: the groups with the chosen factors; those left out have factor 0.
        lam: the chosen value of lam.
        hold_out_error: root mean square error on the held-out entries at the choice, averaged over the splits.
        attributes: attributes in use, one tuple per candidate.
        everyone: factor of the group of all rows, one per candidate.
        lams: values of lam, descending, (L,).
        errors: root mean square errors averaged over the splits, (candidates, L).
        standard_errors: of ``errors`` over the splits; NaN for one split.
        at_edge: whether ``lam`` is the smallest candidate, or the largest of given ones, so that one outside the list
            may predict better. False for fewer than three candidates.
    """

    groups: Groups
    lam: Float[Array, ""]
    hold_out_error: Float[Array, ""]
    attributes: tuple[tuple[str, ...], ...]
    everyone: tuple[float, ...]
    lams: Float[Array, " L"]
    errors: Float[Array, "candidates L"]
    standard_errors: Float[Array, "candidates L"]
    at_edge: Bool[Array, ""] | bool = False


def choose_groups(
    Y: Any,
    W: Any = None,
    groups: Groups | None = None,
    lams: Any = None,
    key: PRNGKeyArray | None = None,
    frac: float = 0.15,
    *,
    everyone: Sequence[float] = (0.0, 0.5, 1.0),
    subsets: Sequence[Sequence[str]] | None = None,
    folds: int | None = None,
    splits: int = 3,
    ridge: float | Float[Array, ""] = 0.0,
    tol: float | Float[Array, ""] = 1e-2,
    max_iter: int = 1000,
) -> GroupChoice:
    """Joint choice of lam, the attributes to group by and the weight of a group of all rows, by held-out entries.

    Useless groups cost accuracy, so they have to earn their place: every subset of the attributes is tried with every
    weight of the global group, on the same splits. One compiled program serves all candidates. With Q attributes that
    is ``2^Q len(everyone)`` paths per split; name the ``subsets`` where Q is large.

    Args:
        Y: data, (n, d); NaN allowed where not observed.
        W: weights >= 0, 0 = missing; None: 1 where Y is finite.
        groups: of the rows, from `make_groups`; required. A group of all rows in it is treated as the global group.
        lams: candidates >= 0, in units of `game_weights`; None: 9 values from the largest ``lambda_max`` down,
            continued as in `cv_lambda`.
        key: randomness of the splits; required.
        frac: share of the observed entries to hide; not used with ``folds``.
        everyone: factors of the global group to try, >= 0; 0: without it.
        subsets: attributes of each candidate; None: all subsets, the empty one (soft-impute) included.
        folds: as in `cv_lambda`.
        splits: as in `cv_lambda`.
        ridge: as in `game`.
        tol: relative duality gap of each solve; at 1e-2 the held-out errors are right to three digits.
        max_iter: iterations of each solve at most (static).

    Returns:
        The choice, ready for ``game(Y, W, choice.groups, choice.lam)``, and the whole table behind it. A lam at the end
        of its list has ``at_edge``, and warns.

    Raises:
        TypeError: for groups that `make_groups` did not build, or a key that is not a typed random key.
        ValueError: for bad input, naming the argument.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> signal = jnp.outer(jnp.arange(1.0, 13.0), jnp.array([1.0, -1.0, 2.0, 1.0]))
        >>> Y = 0.2 * signal + jax.random.normal(jax.random.key(1), (12, 4))
        >>> groups = make_groups([range(6), range(6, 12)], 12)
        >>> choice = choose_groups(Y, None, groups, None, jax.random.key(0), splits=1)
        >>> choice.errors.shape  # 2^2 subsets of the two attributes by three weights of a group of all rows, less one
        (11, 9)
    """
    check_groups(groups)
    Y, W, _ = validation.table(Y, W)
    groups, candidates = _candidates(groups, everyone, subsets)
    factors = np.array([candidate[0] for candidate in candidates])
    solver = Game(layout(groups), ridge, tol, max_iter)
    given = lams is not None
    if not given:
        lams = jnp.max(_tops(solver, Y, W, jnp.asarray(factors))) * jnp.logspace(0, -2, 9, dtype=Y.dtype)
    lams = jnp.sort(validation.lambda_grid(lams, Y.dtype))[::-1]
    hidden = held_out(W, key, frac, folds, splits)
    options = {"factors": jnp.asarray(factors), "at_once": _at_once(None, hidden, lams)}
    lams, errors = continued(lambda lams: _candidate_errors(solver, Y, W, lams, hidden, **options), lams, given)
    tables = [choice(lams, table, given) for table in errors]
    best = int(np.argmin([float(table.hold_out_error) for table in tables]))
    warn_at_edge(tables[best])
    return GroupChoice(
        groups=groups.with_factors(factors[best]),
        lam=tables[best].lam,
        hold_out_error=tables[best].hold_out_error,
        attributes=tuple(candidate[1] for candidate in candidates),
        everyone=tuple(candidate[2] for candidate in candidates),
        lams=lams,
        errors=jnp.stack([table.errors for table in tables]),
        standard_errors=jnp.stack([table.standard_errors for table in tables]),
        at_edge=tables[best].at_edge,
    )


def _candidates(
    groups: Groups, everyone: Sequence[float], subsets: Sequence[Sequence[str]] | None
) -> tuple[Groups, list[tuple[np.ndarray, tuple[str, ...], float]]]:
    """Groups with a global one, and (factors, attributes, global factor) of each candidate."""
    names = tuple(dict.fromkeys(name for name in groups.attributes if name != EVERYONE))
    if subsets is None:
        subsets = [s for size in range(len(names) + 1) for s in itertools.combinations(names, size)]
    for subset in subsets:
        unknown = [name for name in subset if name not in names]
        if unknown:
            raise ValueError(f"subsets has {unknown[0]!r}; expected attributes of groups, {names}")
    everyone = [float(factor) for factor in everyone]
    if not everyone or not all(0 <= factor < float("inf") for factor in everyone):
        raise ValueError(f"everyone is {everyone}; expected finite numbers >= 0, at least one")
    if EVERYONE not in groups.attributes:
        groups = _with_everyone(groups)
    result = []
    for subset, factor in itertools.product(subsets, everyone):
        if len(subset) or factor > 0:
            used = [factor if name == EVERYONE else float(name in subset) for name in groups.attributes]
            own = [1.0 if name == EVERYONE else f for name, f in zip(groups.attributes, groups.factors, strict=True)]
            result.append((np.array(used) * np.array(own), tuple(subset), factor))
    if not result:
        raise ValueError("subsets and everyone leave no candidate with a group; expected at least one")
    return groups, result


def _with_everyone(groups: Groups) -> Groups:
    whole = make_groups([], groups.n, everyone=1.0)
    return Groups(
        groups.n,
        groups.rows + whole.rows,
        groups.names + whole.names,
        groups.attributes + whole.attributes,
        groups.factors + whole.factors,
        groups.pad_ratio,
    )


def _with_factors(solver: Game, factors: Array) -> Game:
    return eqx.tree_at(lambda s: s.groups.factors, solver, factors.astype(solver.groups.factors.dtype))


@eqx.filter_jit
def _tops(solver: Game, Y: Array, W: Array, factors: Float[Array, "candidates G"]) -> Float[Array, " candidates"]:
    return jax.lax.map(lambda f: _with_factors(solver, f).lambda_max(Y, W), factors)


@eqx.filter_jit
def _candidate_errors(
    solver: Game, Y: Array, W: Array, lams: Array, hidden: Array, *, factors: Array, at_once: int
) -> Float[Array, "candidates splits L"]:
    return jax.lax.map(lambda f: _split_errors(_with_factors(solver, f), Y, W, lams, hidden, at_once), factors)


class NoiseEstimate(NamedTuple):
    """Result of `noise_estimate`.

    Attributes:
        sigma: standard deviation of the noise of an entry of weight 1.
        dof: effective degrees of freedom of the fit.
        rss: ``sum W (Y - M)^2``.
    """

    sigma: Float[Array, ""]
    dof: Float[Array, ""]
    rss: Float[Array, ""]


def noise_estimate(
    solver: Solver,
    Y: Any,
    W: Any = None,
    lam: float | Float[Array, ""] | None = None,
    key: PRNGKeyArray | None = None,
    *,
    step: float = 0.1,
) -> NoiseEstimate:
    """``sigma^2 = RSS / (|Omega| - dof)`` with ``dof = <b, M(Y + h b) - M(Y)> / h``, b random signs on the observed.

    The divergence of the fit by one random probe: it takes the shrinkage into account, which a count of the parameters
    ``r (n + d - r)`` does not (at the lam that predicts best that count can exceed the number of observations).

    Args:
        solver: as in `cv_lambda`.
        Y: data, (n, d).
        W: weights >= 0, 0 = missing; None: 1 where Y is finite.
        lam: of the fit, e.g. the one that `cv_lambda` chose; required.
        key: randomness of the probe; required.
        step: h in units of the root mean square of the observed data.

    Returns:
        The estimate. A better lower bound than the hold-out error of `cv_lambda`, which holds the error of the fit too.

    Raises:
        ValueError: for bad input, naming the argument.

    Example:
        >>> import jax
        >>> from jaxspec.completion import SoftImpute
        >>> signal, noise = jax.random.normal(jax.random.key(0), (40,)), jax.random.normal(jax.random.key(1), (40, 20))
        >>> estimate = noise_estimate(SoftImpute(), signal[:, None] + 0.1 * noise, None, 1.0, jax.random.key(2))
        >>> 0.08 < float(estimate.sigma) < 0.12
        True
    """
    check_given(lam=lam)
    check_key(key)
    Y, W, _ = validation.table(Y, W)
    (lam,) = validation.numbers(Y.dtype, lam=lam)
    check_numbers(0, ends="()", step=step)
    return _noise(solver, Y, W, lam[None], key, jnp.asarray(step, Y.dtype))


@eqx.filter_jit
def _noise(solver: Solver, Y: Array, W: Array, lam: Array, key: PRNGKeyArray, step: Array) -> NoiseEstimate:
    seen = (W > 0).astype(Y.dtype)
    probe = jax.random.rademacher(key, Y.shape, Y.dtype) * seen
    h = step * rmse(Y, jnp.zeros_like(Y), seen)
    fits = jax.lax.map(lambda data: solver(data, W, lam).M[0], jnp.stack([Y, Y + h * probe]))
    count = jnp.sum(seen)
    dof = jnp.clip(safe_ratio(jnp.abs(jnp.sum(probe * (fits[1] - fits[0]))), h), 0, jnp.maximum(count - 1, 0))
    # Root mean square first, so that squares neither overflow nor vanish.
    spread = rmse(fits[0], Y, W) * jnp.sqrt(jnp.sum(W))
    return NoiseEstimate(spread / jnp.sqrt(jnp.maximum(count - dof, 1)), dof, spread**2)

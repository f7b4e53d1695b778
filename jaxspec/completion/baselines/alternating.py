"""The alternating minimisation behind TMac and its mixture with nuclear norms, see `factorised` for the program."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxspec.completion import blocks as regularisers
from jaxspec.completion.baselines.observed import Observed, completion, observed
from jaxspec.completion.result import TensorCompletion
from jaxspec.linalg import ordered, top_svd
from jaxspec.linalg.decompositions import qr
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.scaling import safe_divide
from jaxspec.solvers import ADMMInfo, Block
from jaxspec.solvers.loop import CONVERGED, DIVERGED, RUNNING, History, check_loop_arguments, iterate
from jaxspec.solvers.penalties import block_norms, sum_of_squares
from jaxspec.solvers.stopping import safe_ratio


class Data(NamedTuple):
    """What is given, in the units of the data.

    Attributes:
        tensor: data, 0 where not observed.
        mask: True where observed.
        init: initial tensor whose leading singular vectors start the factors; None: 0, and a Gaussian start.
        truth: true tensor, or None.
        key: of the Gaussian start.
    """

    tensor: Array
    mask: Array
    init: Array | None
    truth: Array | None
    key: Array


class Numbers(NamedTuple):
    """The traced numbers.

    Attributes:
        gamma: penalty of the nuclear norms; None: 0.1 divided by the root mean square of the observed entries.
        theta: penalty of the factors; None: 30 times gamma. Both are 1 without nuclear norms.
        weights: of the factored modes, in their order.
        tol: relative change at which to stop.
    """

    gamma: Array | None
    theta: Array | None
    weights: Array
    tol: Array


class Static(NamedTuple):
    """What is compiled in.

    Attributes:
        ranks: of the factored modes.
        modes: the factored modes, in the order of the ranks.
        adaptive: whether the weights follow the misfit.
        max_iter: iterations at most.
        history: whether to record.
        dtype: of the tensor to return.
    """

    ranks: tuple[int, ...]
    modes: tuple[int, ...]
    adaptive: bool
    max_iter: int
    history: bool
    dtype: Any


@eqx.filter_jit
def alternate(given: Data, nuclear: tuple[Block, ...], numbers: Numbers, static: Static) -> TensorCompletion:
    """Runs the alternation to its end.

    Args:
        given: the data.
        nuclear: blocks of the modes that are not factored, in their order.
        numbers: penalties, weights and tolerance.
        static: ranks and loop arguments.

    Returns:
        The result, in the units of the data.
    """
    check_loop_arguments(static.max_iter, 1, "while")
    data = observed(given.tensor, given.mask, given.init, given.truth)
    problem = _problem(data, nuclear, numbers, static)
    zero, penalties = jnp.zeros((), jnp.int32), len(problem.order)
    infinity, nan = jnp.asarray(jnp.inf, data.target.dtype), jnp.asarray(jnp.nan, data.target.dtype)
    blank = data.blank_history(static.max_iter, penalties) if static.history else None
    y, rho = _first_factors(data, problem.factors, given), jnp.broadcast_to(nan, (penalties,))
    state = iterate(
        lambda state: _step(problem, state),
        lambda state: _test(problem, state),
        _State(data.start, y, numbers.weights, rho, nan, infinity, infinity, zero, data.status, blank),
        max_iter=static.max_iter,
    )
    info = ADMMInfo(
        iterations=state.iter,
        converged=state.status == CONVERGED,
        status=state.status,
        primal_residual=state.primal,
        dual_residual=state.change,
        rho=state.rho,
        objective=state.objective,
        gap=nan,
    )
    units = (1 / data.scale, data.scale) if nuclear else (jnp.ones_like(data.scale), data.scale**2)
    return completion(data, state.x, info, state.history, dtype=static.dtype, units=units)


class _Factors(NamedTuple):
    """Factored unfoldings of one shape and rank: their places among the factored modes, and what is observed."""

    block: Block
    rank: int
    places: list[int]
    seen: Array


class _Problem(NamedTuple):
    data: Observed
    nuclear: tuple[Block, ...]
    gamma: Array
    factors: tuple[_Factors, ...]
    theta: Array
    tol: Array
    order: np.ndarray
    adaptive: bool


class _State(NamedTuple):
    """Y of every group, weights of the factored modes in the next step, and what the last step left (rho by mode)."""

    x: Array
    y: tuple[Array, ...]
    weights: Array
    rho: Array
    objective: Array
    primal: Array
    change: Array
    iter: Int[Array, ""]
    status: Int[Array, ""]
    history: History | None


class _Term(NamedTuple):
    """One block of the objective at Z: A Z, its low-rank neighbour, the weight of each matrix, the nuclear norms, Y."""

    ax: Array
    near: Array
    weight: Array
    value: Array
    y: Array | None


def _factors(data: Observed, static: Static) -> tuple[_Factors, ...]:
    groups = []
    for rank in dict.fromkeys(static.ranks):
        places = [place for place, other in enumerate(static.ranks) if other == rank]
        for block in regularisers.unfoldings(data.mask.shape, None, [static.modes[place] for place in places]):
            members = [places[member] for member in block.gather.modes]
            groups.append(_Factors(block, rank, members, block.gather(block.data, data.mask)))
    return tuple(groups)


def _problem(data: Observed, nuclear: tuple[Block, ...], numbers: Numbers, static: Static) -> _Problem:
    if nuclear:
        gamma = 0.1 / data.rms if numbers.gamma is None else numbers.gamma * data.scale
        theta = 30 * gamma if numbers.theta is None else numbers.theta * data.scale
    else:
        gamma = theta = jnp.ones((), data.target.dtype)
    factors = _factors(data, static)
    others = [mode for mode in range(data.mask.ndim) if mode not in static.modes]
    modes = [others[member] for block in nuclear for member in block.gather.modes]
    modes += [static.modes[place] for group in factors for place in group.places]
    return _Problem(data, nuclear, gamma, factors, theta, numbers.tol, np.argsort(modes), static.adaptive)


def _first_factors(data: Observed, factors: tuple[_Factors, ...], given: Data) -> tuple[Array, ...]:
    y = []
    for group in factors:
        matrices = group.block.gather(group.block.data, data.start)
        if given.init is None:
            keys = [jax.random.fold_in(given.key, place) for place in group.places]
            shape = (group.rank, matrices.shape[-1])
            y.append(jnp.stack([jax.random.normal(key, shape, matrices.dtype) for key in keys]))
        else:
            y.append(top_svd(ordered(matrices, y[-1] if y else None), group.rank).vt)
    return tuple(y)


def _terms(problem: _Problem, state: _State) -> list[_Term]:
    terms: list[_Term] = []
    for block in problem.nuclear:
        ax = block.gather(block.data, state.x)
        near, value = block.prox(block.data, ordered(ax, terms[-1].near if terms else None), 1 / problem.gamma)
        terms.append(_Term(ax, near, jnp.broadcast_to(problem.gamma, len(ax)), value, None))
    for group, y in zip(problem.factors, state.y, strict=True):
        ax = group.block.gather(group.block.data, state.x)
        # One LAPACK-backed factorisation at a time: two independent ones in a loop can stall the CPU backend.
        basis, _ = qr(matmul(ax, y.mT), after=terms[-1].near if terms else None)
        y = matmul(basis.mT, ax)
        weight = problem.theta * state.weights[np.asarray(group.places)]
        terms.append(_Term(ax, matmul(basis, y), weight, jnp.zeros_like(problem.tol), y))
    return terms


def _step(problem: _Problem, state: _State) -> _State:
    data, terms = problem.data, _terms(problem, state)
    blocks = (*problem.nuclear, *(group.block for group in problem.factors))
    weighted = [term.weight[:, None, None] * term.near for term in terms]
    total = sum(block.scatter(block.data, near) for block, near in zip(blocks, weighted, strict=True))
    rho = jnp.concatenate([term.weight for term in terms])
    x = data.keep(total / jnp.sum(rho))
    ax, near = tuple(term.ax for term in terms), tuple(term.near for term in terms)
    apart = jnp.concatenate([_squares(term.near - term.ax) for term in terms])
    norms = [jnp.linalg.norm(block_norms(parts)) for parts in (ax, near)]
    change = safe_ratio(jnp.sqrt(sum_of_squares(x - state.x)), jnp.sqrt(sum_of_squares(x)))
    finite = jnp.isfinite(change)
    state = state._replace(
        x=jnp.where(finite, x, state.x),
        y=tuple(term.y for term in terms if term.y is not None),
        weights=_by_misfit(problem, terms[len(problem.nuclear) :]) if problem.adaptive else state.weights,
        rho=rho[problem.order],
        objective=sum(term.value for term in terms) + 0.5 * jnp.sum(rho * apart),
        primal=safe_ratio(jnp.sqrt(jnp.sum(apart)), jnp.maximum(*norms)),
        change=change,
        iter=state.iter + 1,
        status=jnp.where(finite, state.status, DIVERGED).astype(jnp.int32),
    )
    if state.history is None:
        return state
    values = {"primal": state.primal, "dual": state.change, "rho": state.rho, "objective": state.objective}
    return state._replace(history=state.history.record(state.iter - 1, data.record(state.x, values)))


def _squares(matrices: Array) -> Float[Array, " groups"]:
    return jnp.sum(matrices**2, axis=(-2, -1))


def _by_misfit(problem: _Problem, terms: list[_Term]) -> Float[Array, " n"]:
    """Weights proportional to one over the squared misfit where observed, in the order of the factored modes."""
    misfit = jnp.zeros(sum(len(group.places) for group in problem.factors), problem.tol.dtype)
    for group, term in zip(problem.factors, terms, strict=True):
        squares = _squares(jnp.where(group.seen, term.near - term.ax, 0))
        misfit = misfit.at[np.asarray(group.places)].set(squares)
    weights = safe_divide(jnp.min(misfit), misfit, 1)
    return weights / jnp.sum(weights)


def _test(problem: _Problem, state: _State) -> _State:
    status = jnp.where(state.change <= problem.tol, CONVERGED, RUNNING)
    return state._replace(status=jnp.where(state.status == DIVERGED, DIVERGED, status).astype(jnp.int32))

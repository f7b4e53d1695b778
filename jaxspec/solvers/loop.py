"""The one iteration loop of the package: a method supplies a step and a test, this module repeats them.

A method's state is any pytree with two int32 scalars, ``iter`` (iterations done, counted over resumed runs) and
``status``. The loop runs ``state <- test(step(...step(state)))`` with ``check_every`` steps between two tests while the
status is `RUNNING` and fewer than ``max_iter`` iterations have been done in this call.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxspec.checks import check_choice, check_integers

RUNNING = MAX_ITER = 0
CONVERGED = 1
STALLED = 2
DIVERGED = 3
EMPTY = 4


@runtime_checkable
class LoopState(Protocol):
    """What the loop needs to know of a method's state."""

    iter: Int[Array, ""]
    status: Int[Array, ""]


State = TypeVar("State", bound=LoopState)


class History(eqx.Module):
    """Quantities recorded once per iteration (or per check), NaN where nothing was recorded.

    Attributes:
        values: name -> array with a leading axis of length ``max_iter``.
        count: number of iterations this history covers.
    """

    values: dict[str, Array]
    count: Int[Array, "*batch"]

    def __getitem__(self, name: str) -> Array:
        return self.values[name]

    def keys(self) -> tuple[str, ...]:
        """Names of the recorded quantities."""
        return tuple(self.values)

    def trim(self) -> dict[str, np.ndarray]:
        """Host copies without the unused tail (not batched: trim the lanes of a vmapped run one by one)."""
        count = int(self.count)
        return {name: np.asarray(value)[:count] for name, value in self.values.items()}

    def record(self, index: Int[Array, ""], values: dict[str, Array]) -> "History":
        """History with ``values`` written at iteration ``index`` (0-based)."""
        written = {
            name: self.values[name].at[index].set(jnp.asarray(value, self.values[name].dtype), mode="drop")
            for name, value in values.items()
        }
        return History({**self.values, **written}, jnp.maximum(self.count, jnp.asarray(index + 1, self.count.dtype)))


def empty_history(length: int, like: dict[str, Any]) -> History:
    """History of ``length`` iterations filled with NaN.

    Args:
        length: number of iterations to make room for.
        like: name -> array or `jax.ShapeDtypeStruct` of one record.

    Returns:
        The empty history; integer quantities are stored as floats, which have a NaN.
    """

    def blank(value: Any) -> Array:
        dtype = value.dtype if jnp.issubdtype(value.dtype, jnp.floating) else jnp.result_type(float)
        return jnp.full((length, *value.shape), jnp.nan, dtype)

    return History({name: blank(value) for name, value in like.items()}, jnp.zeros((), jnp.int32))


def as_traced(tree: Any, dtype: Any) -> Any:
    """Pytree with its Python numbers turned into arrays, so that new ones do not recompile.

    Args:
        tree: any pytree.
        dtype: of the new arrays.

    Returns:
        The pytree.
    """

    def traced(leaf: Any) -> Any:
        return jnp.asarray(leaf, dtype) if isinstance(leaf, float | int) and not isinstance(leaf, bool) else leaf

    return jax.tree.map(traced, tree)


def iterate(
    step: Callable[[State], State],
    test: Callable[[State], State],
    state: State,
    *,
    max_iter: int,
    check_every: int = 1,
    loop: str = "while",
) -> State:
    """Repeats ``step`` with ``test`` after every ``check_every`` of them.

    Args:
        step: one iteration; must add 1 to ``state.iter``.
        test: the stopping test; sets ``state.status``.
        state: where to start; nothing runs if its status is not `RUNNING`.
        max_iter: iterations to add at most (static).
        check_every: steps between two tests (static). The last chunk is shorter if ``max_iter`` asks for it.
        loop: ``"while"`` (`jax.lax.while_loop`, stops early, forward-mode derivatives) or ``"scan"`` (fixed length,
            frozen once the status is set, also reverse-mode derivatives).

    Returns:
        The last state.
    """
    if max_iter == 0:
        return state
    end = state.iter + max_iter

    def runs(state: State) -> Array:
        return (state.status == RUNNING) & (state.iter < end)

    if loop == "while":

        def chunk(state: State) -> State:
            if check_every == 1:
                return test(step(state))
            pause = jnp.minimum(state.iter + check_every, end)
            return test(jax.lax.while_loop(lambda inner: runs(inner) & (inner.iter < pause), step, state))

        return jax.lax.while_loop(runs, chunk, state)

    def masked(function: Callable[[State], State], keep: Callable[[State], Array]) -> Callable[[State], State]:
        def apply(state: State) -> State:
            active = keep(state)
            return jax.tree.map(lambda new, old: jnp.where(active, new, old), function(state), state)

        return apply

    bounded_step = masked(step, runs)

    def chunk(state: State) -> State:
        if check_every == 1:
            return test(step(state))
        inner, _ = jax.lax.scan(lambda carry, _: (bounded_step(carry), None), state, length=check_every)
        return test(inner)

    bounded_chunk = masked(chunk, runs)
    chunks = -(-max_iter // check_every)
    return jax.lax.scan(lambda carry, _: (bounded_chunk(carry), None), state, length=chunks)[0]


def stalled_at_rounding(
    status: Int[Array, "*batch"], gap: Float[Array, "*batch"], waited: Bool[Array, "*batch"] | bool = True
) -> Int[Array, "*batch"]:
    """Status of a run that does not get on where its gap is rounding already; elsewhere a plateau may well end.

    Args:
        status: of the run.
        gap: the last gap, or another measure.
        waited: whether it has not fallen for long enough; True for a run whose iterations are used up.

    Returns:
        `STALLED` in place of `RUNNING` where the gap is at most 1000 eps of its dtype.
    """
    floor = gap <= 1000 * jnp.finfo(gap.dtype).eps
    return jnp.where((status == RUNNING) & floor & waited, STALLED, status)


def best_so_far(
    measure: Float[Array, "*batch"],
    iteration: Int[Array, "*batch"],
    best: Float[Array, "*batch"],
    best_iter: Int[Array, "*batch"],
) -> tuple[Float[Array, "*batch"], Int[Array, "*batch"]]:
    """The measure that stalls are judged by, and when it was met: replaced by one that is lower by 10%.

    Args:
        measure: now.
        iteration: now.
        best: so far.
        best_iter: when it was met.

    Returns:
        ``(best, best_iter)``.
    """
    improved = measure < 0.9 * best
    return jnp.where(improved, measure, best), jnp.where(improved, iteration, best_iter)


def check_loop_arguments(max_iter: int, check_every: int, loop: str) -> None:
    """Raises `ValueError` for a bad static loop argument, naming it.

    Args:
        max_iter: >= 0.
        check_every: >= 1.
        loop: ``"while"`` or ``"scan"``.
    """
    check_integers(0, max_iter=max_iter)
    check_integers(1, check_every=check_every)
    check_choice("loop", loop, ("while", "scan"))

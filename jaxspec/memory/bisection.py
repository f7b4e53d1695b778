"""How many random associations a memory holds, seed by seed, by bisection between certificates.

Feasibility is monotone in the number n of leading associations, so n is bisected with a traced mask, first where the
theory expects the capacity; each search starts from the memory of the one before. Undecided numbers stay apart: the
bisection goes on below and above them.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from jaxspec.checks import check_choice, check_integers, check_numbers
from jaxspec.memory.associations import Associations, sample_associations
from jaxspec.memory.certificates import checked_problem
from jaxspec.memory.checks import EMBEDDINGS, MODELS
from jaxspec.memory.feasibility import check_feasible
from jaxspec.memory.lists import Limits, checked_limits
from jaxspec.memory.theory import critical_p
from jaxspec.processes import gathered
from jaxspec.solvers.loop import CONVERGED, RUNNING, iterate

_DOUBLINGS = 6
_SPREAD = 2.0  # of capacities around the theory's, relative, times d


class Capacity(NamedTuple):
    """Result of `capacity`, one entry a seed.

    Attributes:
        low: largest n certified feasible (1 needs no certificate).
        high: smallest n certified infeasible; one above all that was tried where none was. ``high - low`` is at most
            the resolution, unless calls were undecided.
        undecided: calls that found neither.
        calls: all calls.
    """

    low: Int[Array, " seeds"]
    high: Int[Array, " seeds"]
    undecided: Int[Array, " seeds"]
    calls: Int[Array, " seeds"]


class _Bracket(NamedTuple):
    """``low`` feasible, ``high`` infeasible, ``left..right`` between them undecided; left > right: none is."""

    low: Array
    high: Array
    left: Array
    right: Array
    undecided: Array
    iter: Array
    status: Array
    W: Array | None = None


class _Prior(NamedTuple):
    """Where the capacity is expected: a Cauchy law, whose tails let a bracket that it misses grow geometrically."""

    center: float
    width: float

    def median(self, low: Array, high: Array, resolution: Array | int) -> Array:
        """The number between low and high that halves the probability, at least the resolution away from both.

        Numbers near the capacity are hard to decide, and a finer bracket than that was not asked for.
        """
        angles = [jnp.arctan((v - self.center) / self.width) for v in (low, high)]
        n = self.center + self.width * jnp.tan((angles[0] + angles[1]) / 2)
        middle = (low + high) // 2
        least, most = jnp.minimum(low + resolution, middle), jnp.maximum(high - resolution, middle)
        return jnp.clip(jnp.asarray(jnp.rint(n), low.dtype), least, most)


class _Draw(NamedTuple):
    """What the associations of a seed are drawn from."""

    p: int
    d: int
    model: str
    embedding: str


class _Search(NamedTuple):
    """Numbers of a search, all traced."""

    resolution: int
    tol: float
    prior: _Prior


class _Static(NamedTuple):
    """What is compiled in."""

    draw: _Draw
    limits: Limits
    at_once: bool


def capacity(
    key: Key[Array, ""] | Associations,
    d: int | None = None,
    *,
    model: str = "original",
    embedding: str = "gaussian",
    num_seeds: int = 10,
    p_max: int | None = None,
    resolution: int = 1,
    tol: float = 1e-5,
    max_newton: int = 100,
    max_cg: int = 1000,
    top: int | None = None,
    block: int = 256,
) -> Capacity:
    """Largest number of leading associations that one matrix recalls, for several draws of them.

    Seeds run one after the other in one compiled program on a CPU, all at once on an accelerator, divided over the
    devices where their number is a multiple.
    Beyond d = 32, where Newton's equations are solved by CG, numbers next to the capacity take most of the time: a
    ``resolution`` of a percent of the capacity spares them.

    Args:
        key: random key; seed s draws from ``fold_in(key, s)``, whose associations do not depend on ``p_max``. Or
            associations of your own: then how many of their leading rows one matrix recalls, as a single entry; their
            order counts, and ``model``, ``embedding``, ``num_seeds`` and ``p_max`` are not used.
        d: dimension, >= 1; None for associations of your own.
        model: as in `sample_associations`.
        embedding: as in `sample_associations`.
        num_seeds: how many draws, >= 1.
        p_max: largest n to start with, >= 2; None: ``(1 + min(.3, 8 / d)) theory.critical_p(d) + 10``. Doubled, six
            times at most, while n = p_max is not known to be infeasible for some seed.
        resolution: largest ``high - low`` to stop at, >= 1.
        tol: see `check_feasible`.
        max_newton: see `check_feasible`.
        max_cg: see `check_feasible`.
        top: see `check_feasible`; with it competitors of the decoupled model are not stored.
        block: see `check_feasible`.

    Returns:
        The brackets. Compare their mean with `theory.critical_p`. With associations of your own ``high`` is p + 1 where
        all p can be recalled.

    Raises:
        ValueError: an argument out of range.
        TypeError: neither a key nor associations.

    Example:
        >>> import jax
        >>> found = capacity(jax.random.key(0), 4, num_seeds=2)
        >>> bool((found.high - found.low == 1).all())
        True
        >>> capacity(sample_associations(jax.random.key(0), 5, 4)).low  # five pairs of dimension 4 can all be recalled
        Array([5], dtype=int32)
    """
    given = isinstance(key, Associations)
    if given:
        key, _, _ = checked_problem(key, None)
        if d not in (None, key.x.shape[1]):
            raise ValueError(f"d is {d}; expected None or {key.x.shape[1]}, the dimension of the associations")
        d = key.x.shape[1]
    elif not hasattr(key, "dtype"):
        raise TypeError(f"key is a {type(key).__name__}; expected a random key or Associations")
    elif d is None:
        raise ValueError("d is None; expected an integer >= 1 with a random key")
    check_choice("model", model, MODELS)
    check_choice("embedding", embedding, EMBEDDINGS)
    check_integers(1, d=d, num_seeds=num_seeds, resolution=resolution, max_newton=max_newton, max_cg=max_cg)
    check_integers(2, p_max=p_max)
    check_numbers(0, tol=tol)
    critical = float(critical_p(d))
    p = math.ceil((1 + min(0.3, 4 * _SPREAD / d)) * critical) + 10 if p_max is None else p_max
    search = _Search(resolution, tol, _Prior(critical - resolution // 2, _SPREAD / d * critical))
    limits = Limits(max_newton, max_cg, top=top, block=block)
    if given:
        end = _of_facts(key, _open(1, len(key.x), d, key.x.dtype), search, checked_limits(key, limits))
        return Capacity(end.low, end.high, end.undecided, end.iter)
    keys = jax.vmap(lambda seed: jax.random.fold_in(key, seed))(jnp.arange(num_seeds))
    at_once = jax.default_backend() != "cpu"
    if at_once and num_seeds % jax.device_count() == 0:
        mesh = jax.make_mesh((jax.device_count(),), ("seeds",), axis_types=(jax.sharding.AxisType.Auto,))
        keys = jax.device_put(keys, jax.NamedSharding(mesh, jax.P("seeds")))
    brackets = _open(num_seeds, p, d)
    for doubling in range(_DOUBLINGS + 1):
        static = _Static(_Draw(p, d, model, embedding), limits, at_once)
        brackets = _bisect(keys, brackets, search, static)
        # A bracket that still ends above p was never closed by a certificate.
        if np.all(gathered(brackets.high) <= p) or doubling == _DOUBLINGS:
            break
        open_ended = brackets.high > p
        undecided = brackets.left <= brackets.right
        p = 2 * p
        brackets = brackets._replace(
            high=jnp.where(open_ended, p + 1, brackets.high),
            left=jnp.where(open_ended & ~undecided, p + 1, brackets.left),
            status=jnp.where(open_ended, RUNNING, brackets.status),
        )
    return Capacity(brackets.low, brackets.high, brackets.undecided, brackets.iter)


def _open(num_seeds, p, d, dtype=float):
    """Brackets before the first call."""
    whole = jnp.full((num_seeds,), p + 1, jnp.int32)
    zero = jnp.zeros_like(whole)
    return _Bracket(zero + 1, whole, whole, zero, zero, zero, zero, jnp.zeros((num_seeds, d, d), dtype))


@partial(jax.jit, static_argnames="limits")
def _of_facts(a, brackets, search, limits):
    return jax.tree.map(lambda x: x[None], _searched(a, jax.tree.map(lambda x: x[0], brackets), search, limits))


def _searched(a, bracket, search, limits):
    """The bracket of the associations a, closed as far as the certificates close it."""
    resolution, tol, prior = search
    caps = {"max_newton": limits.newton, "max_cg": limits.cg, "top": limits.top, "block": limits.block}

    def step(bracket):
        n, _ = _following(bracket, resolution, prior)
        found = check_feasible(a, n=n, tol=tol, W0=bracket.W, **caps)
        bracket = _narrowed(bracket, n, found.status, len(a.x))._replace(W=found.W)
        done = _following(bracket, resolution)[1]
        status = jnp.where(done, CONVERGED, RUNNING).astype(jnp.int32)
        return bracket._replace(iter=bracket.iter + 1, status=status)

    done = _following(bracket, resolution)[1]
    start = bracket._replace(status=jnp.where(done, CONVERGED, bracket.status))
    return iterate(step, lambda bracket: bracket, start, max_iter=10_000)


@partial(jax.jit, static_argnames="static")
def _bisect(keys, brackets, search, static):
    draw, limits, at_once = static

    def one(key, bracket):
        regenerate = limits.top is not None
        a = sample_associations(key, draw.p, draw.d, model=draw.model, embedding=draw.embedding, regenerate=regenerate)
        return _searched(a, bracket, search, limits)

    if at_once:
        return jax.vmap(one)(keys, brackets)
    return jax.lax.map(lambda pair: one(*pair), (keys, brackets))


def _following(bracket, resolution, prior=None):
    """The number to try next, and whether there is none."""
    low, high, left, right = bracket[:4]
    some = left <= right
    below, above = some & (left - low > resolution), some & (high - right > resolution)
    low, high = jnp.where(above & ~below, right, low), jnp.where(below, left, high)
    n = (low + high) // 2 if prior is None else prior.median(low, high, resolution)
    return n, jnp.where(some, ~below & ~above, bracket.high - bracket.low <= resolution)


def _narrowed(bracket, n, status, p):
    """The bracket after one more answer; what monotony decides is no longer undecided."""
    low = jnp.where(status > 0, n, bracket.low)
    high = jnp.where(status < 0, n, bracket.high)
    left = jnp.where(status == 0, jnp.minimum(n, bracket.left), bracket.left)
    right = jnp.where(status == 0, jnp.maximum(n, bracket.right), bracket.right)
    none = (left <= low) | (right >= high)
    return bracket._replace(
        low=low,
        high=high,
        left=jnp.where(none, p + 1, left),
        right=jnp.where(none, 0, right),
        undecided=bracket.undecided + (status == 0),
    )

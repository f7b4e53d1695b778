r"""The factorised program for vocabularies and corpora whose logits do not fit: by blocks of contexts, over devices.

W is divided by tokens and H by contexts over the two axes of a mesh. Of the logits a device holds one block at a time,
(V / token devices) x block; normalisers and gradients are sums over the mesh. The gradient ``G = (softmax(Z) - P)
diag(pi)`` of the logits is never formed either: the optimiser needs ``G H^T`` and ``G^T W``, and the certificate the
norm of G, which subspace iteration finds from products of the same kind.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from jaxspec.checks import check_integers, check_numbers, is_concrete
from jaxspec.linalg.normalisation import matmul
from jaxspec.linalg.subspace import operator_top_svd
from jaxspec.peeled.checks import (
    check_distributions,
    check_scale,
    default_gap,
    default_grad_tol,
    floating,
    masses_or_uniform,
)
from jaxspec.peeled.factored import tangent
from jaxspec.peeled.problem import FactoredSolution
from jaxspec.peeled.projection import project_to_ball, projected

TOKENS, CONTEXTS = "tokens", "contexts"
_MATRIX, _COLUMNS = PartitionSpec(TOKENS, None), PartitionSpec(CONTEXTS)
_OVERSAMPLE = 7


class SparseTargets(NamedTuple):
    """Next-token distributions by their few tokens of positive probability.

    Attributes:
        ids: tokens of each context, (m, k); entries of probability 0 are padding.
        probs: their probabilities, >= 0, of sum 1 in each context, (m, k).
        vocabulary: V, number of tokens.
    """

    ids: Int[Array, "m k"]
    probs: Float[Array, "m k"]
    vocabulary: int


class _Static(NamedTuple):
    mesh: Mesh
    vocabulary: int
    block: int
    steps: int
    sweeps: int


class _Corpus(NamedTuple):
    """Targets and weights, padded to whole blocks on every device by contexts of weight 0."""

    ids: Array
    probs: Array
    weights: Array


class _Factors(NamedTuple):
    """W, (V, d), and the columns of H as rows, (m, d)."""

    W: Array
    H: Array


def solve_factored_tiled(
    key: Key[Array, ""],
    targets: SparseTargets,
    dim: int,
    *,
    weights: Any = None,
    budget_W: Any = 1.0,
    budget_H: Any = None,
    mesh: Mesh | None = None,
    block: int = 256,
    steps: int = 1000,
    learning_rate: Any = 10.0,
    momentum: Any = 0.9,
    init_scale: float = 0.3,
    sweeps: int = 6,
    tol: Any = None,
    grad_tol: Any = None,
) -> FactoredSolution:
    """`solve_factored` with ``method="sgd"`` and sparse targets, with memory for the factors and a block of logits.

    A device holds ``4 (V / tokens + m / contexts) dim`` numbers for factors, momentum and gradients, and ``2 V /
    tokens * block`` for logits; a step multiplies ``6 V m dim`` numbers. The same program runs in several processes.

    Args:
        key: random key of the start, which does not depend on the mesh.
        targets: sparse next-token distributions.
        dim: inner dimension d >= 1 (static).
        weights: pi, (m,), >= 0, of sum 1; None: 1/m each.
        budget_W: E_W > 0, mean squared norm of the rows of W.
        budget_H: E_H > 0; None: E_W.
        mesh: with the axes ``"tokens"`` and ``"contexts"``, of any sizes; None: one device.
        block: contexts whose logits are held at a time on each device (static).
        steps: of gradient descent (static).
        learning_rate: of momentum SGD; the gradient of a context is proportional to its weight.
        momentum: in [0, 1).
        init_scale: standard deviation of the start's entries.
        sweeps: of subspace iteration for ``||G||_op`` (static). The residual of the singular pair is added to it: the
            gap is a bound if the pair found is the leading one.
        tol: gap, in nats, that counts as converged; None: 1e-10 (float64), 1e-6 (float32).
        grad_tol: norm of the gradient along the budgets that does; None: 1e-9 (float64), 1e-5 (float32).

    Returns:
        The point, its certificate and its gradient; factors stay divided over the mesh.

    Raises:
        ValueError: an argument out of range, or a mesh without the two axes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> targets = SparseTargets(jnp.array([[0], [1], [2]]), jnp.ones((3, 1)), vocabulary=3)
        >>> solution = solve_factored_tiled(jax.random.key(0), targets, 2, steps=300)
        >>> (solution.W @ solution.H).round(2)[0]
        Array([ 1. , -0.5, -0.5], dtype=float32)
    """
    check_integers(1, dim=dim, block=block, steps=steps, sweeps=sweeps)
    check_scale(init_scale)
    budget_H = budget_W if budget_H is None else budget_H
    check_numbers(0, budget_W=budget_W, budget_H=budget_H, learning_rate=learning_rate, momentum=momentum)
    if mesh is None:
        mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), (TOKENS, CONTEXTS))
    if not {TOKENS, CONTEXTS} <= set(mesh.axis_names):
        raise ValueError(f"mesh has axes {mesh.axis_names}; expected {TOKENS!r} and {CONTEXTS!r} among them")
    targets = _checked(targets)
    dtype = targets.probs.dtype
    weights = masses_or_uniform("weights", weights, len(targets.ids), dtype)
    rates = jnp.asarray(learning_rate, dtype), jnp.asarray(momentum, dtype)
    radii = (
        jnp.sqrt(targets.vocabulary * jnp.asarray(budget_W, dtype)),
        jnp.sqrt(len(weights) * jnp.asarray(budget_H, dtype)),
    )
    static = _Static(mesh, targets.vocabulary, block, steps, sweeps)
    start = _start(key, targets, dim, init_scale)
    tolerances = default_gap(tol, dtype), default_grad_tol(grad_tol, dtype)
    return _solve(_Corpus(targets.ids, targets.probs, weights), start, radii, rates, tolerances, static)


def _checked(targets: SparseTargets) -> SparseTargets:
    ids, probs = jnp.asarray(targets.ids), floating("targets.probs", targets.probs)
    V = targets.vocabulary
    if ids.ndim != 2 or ids.shape != probs.shape or 0 in ids.shape:
        raise ValueError(f"targets have shapes {ids.shape} and {probs.shape}; expected (m, k) twice, m, k >= 1")
    check_integers(1, **{"targets.vocabulary": V})
    check_distributions("targets.probs, transposed", probs.T)
    if is_concrete(ids) and np.any((np.asarray(ids) < 0) | (np.asarray(ids) >= V)):
        raise ValueError(f"targets.ids run from {ids.min()} to {ids.max()}; expected 0 to {V - 1}")
    return SparseTargets(ids, probs, int(V))


def _start(key: Array, targets: SparseTargets, dim: int, scale: float) -> _Factors:
    keys, dtype = jax.random.split(key), targets.probs.dtype
    W = scale * jax.random.normal(keys[0], (targets.vocabulary, dim), dtype)
    return _Factors(W, scale * jax.random.normal(keys[1], (len(targets.ids), dim), dtype))


@eqx.filter_jit
def _solve(
    corpus: _Corpus,
    start: _Factors,
    radii: tuple[Array, Array],
    rates: tuple[Array, Array],
    tolerances: tuple[Array, Array],
    static: _Static,
) -> FactoredSolution:
    V, m = len(start.W), len(start.H)
    corpus, start = _divided(corpus, start, static)
    products = _products(corpus, static)
    optimiser = optax.chain(optax.sgd(*rates), project_to_ball(_Factors(*radii)))

    def step(carry: tuple[_Factors, Any], _: None) -> tuple[tuple[_Factors, Any], None]:
        factors, state = carry
        _, GH, GW = products(factors, factors.H, factors.W)
        updates, state = optimiser.update(_Factors(GH, GW), state, factors)
        return (optax.apply_updates(factors, updates), state), None

    start = _Factors(*map(projected, start, radii))
    (factors, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), length=static.steps)
    value, GH, GW = products(factors, factors.H, factors.W)
    norm = _norm(partial(products, factors), (len(factors.W), len(factors.H)), value.dtype, static.sweeps)
    gap = jnp.sum(GH * factors.W) + radii[0] * radii[1] * norm
    along = [tangent(x, g, r, None)[0] for x, g, r in zip(factors, (GH, GW), radii, strict=True)]
    grad_norm = jnp.sqrt(sum(jnp.sum(t**2) for t in along))
    certified, stationary = gap <= tolerances[0], grad_norm <= tolerances[1]
    ends = certified | stationary, certified, stationary
    done = jnp.asarray(static.steps, jnp.int32)
    return FactoredSolution(factors.W[:V], factors.H[:m].T, value, gap, grad_norm, done, *ends)


def _norm(products, shape: tuple[int, int], dtype: Any, sweeps: int) -> Array:
    """``||G||_op``: the largest Ritz value and the residual of its pair."""
    width = min(1 + _OVERSAMPLE, *shape)

    def matmat(X):
        return products(X, None)[1]

    top = operator_top_svd(
        matmat, lambda Y: products(None, Y)[2], shape, 1, oversample=width - 1, sweeps=sweeps, dtype=dtype
    )
    residual = matmat(top.vt.T)[:, 0] - top.s[0] * top.u[:, 0]
    return top.s[0] + jnp.sqrt(jnp.sum(residual**2))


def _divided(corpus: _Corpus, factors: _Factors, static: _Static) -> tuple[_Corpus, _Factors]:
    """Padded to equal parts on all devices and laid out over the mesh; tokens beyond the vocabulary have W = 0."""
    mesh = static.mesh
    tokens = -len(factors.W) % mesh.shape[TOKENS]
    each = -(-len(factors.H) // mesh.shape[CONTEXTS])
    contexts = -len(factors.H) % (mesh.shape[CONTEXTS] * min(static.block, each))

    def laid(x: Array, extra: int, spec: PartitionSpec) -> Array:
        padded = jnp.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1))
        return jax.lax.with_sharding_constraint(padded, NamedSharding(mesh, spec))

    corpus = _Corpus(*(laid(x, contexts, _COLUMNS) for x in corpus))
    return corpus, _Factors(laid(factors.W, tokens, _MATRIX), laid(factors.H, contexts, _COLUMNS))


def _products(corpus: _Corpus, static: _Static):
    """``(factors, X, Y) -> (L, G X, G^T Y)`` for X (m, w) and Y (V, w); either may be None and so is its product."""

    def local(corpus, factors, X, Y):
        rows = len(factors.W)
        block = min(static.block, len(factors.H))
        first = jax.lax.axis_index(TOKENS) * rows
        present = first + jnp.arange(rows) < static.vocabulary
        columns = jnp.arange(block)[:, None]

        def one(image, part):
            corpus, H, X = part
            Z = jnp.where(present[:, None], matmul(factors.W, H.T), -jnp.inf)
            largest = jax.lax.pmax(jnp.max(Z, axis=0), TOKENS)
            exponentials = jnp.exp(Z - largest)
            total = jax.lax.psum(jnp.sum(exponentials, axis=0), TOKENS)
            here = corpus.ids - first
            mine = jnp.where((here >= 0) & (here < rows), corpus.probs, 0)
            here = jnp.clip(here, 0, rows - 1)
            # As a sum of logarithms of probabilities: near a one-hot target the other form would cancel.
            logs = Z[here, columns] - (largest + jnp.log(total))[:, None]
            losses = -jax.lax.psum(jnp.sum(jnp.where(mine > 0, mine * logs, 0), axis=1), TOKENS)
            G = (exponentials / total).at[here, columns].add(-mine) * corpus.weights
            image = None if X is None else image + matmul(G, X)
            back = None if Y is None else matmul(G.T, Y)
            return image, (jnp.sum(corpus.weights * losses), back)

        blocks = jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), (corpus, factors.H, X))
        start = None if X is None else jnp.zeros((rows, X.shape[1]), X.dtype)
        image, (values, back) = jax.lax.scan(one, start, blocks)
        value = jax.lax.psum(jnp.sum(values), CONTEXTS)
        image = None if X is None else jax.lax.psum(image, CONTEXTS)
        if back is not None:
            back = jax.lax.psum(back.reshape(-1, back.shape[-1]), TOKENS)
        return value, image, back

    factors = _Factors(_MATRIX, _COLUMNS)
    run = jax.shard_map(
        local,
        mesh=static.mesh,
        in_specs=(_COLUMNS, factors, _COLUMNS, _MATRIX),
        out_specs=(PartitionSpec(), _MATRIX, _COLUMNS),
        axis_names={TOKENS, CONTEXTS},
        check_vma=False,
    )
    return lambda factors, X, Y: run(corpus, factors, X, Y)

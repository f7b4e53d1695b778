"""The program in blocks of contexts: the dense solution, the same over devices, and memory that forgets the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.peeled import LayerPeeledProblem, SparseTargets, duality_gap, solve_factored, solve_factored_tiled
from jaxspec.peeled.tiled import _Corpus, _solve, _start, _Static

V, M, K = 11, 13, 3


def sparse(seed, vocabulary=V, contexts=M, entries=K):
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(vocabulary)[:entries] for _ in range(contexts)])
    probs = rng.dirichlet(np.ones(entries), contexts)
    return SparseTargets(jnp.asarray(ids), jnp.asarray(probs), vocabulary)


def dense(targets):
    P = np.zeros((targets.vocabulary, len(targets.ids)))
    np.add.at(P, (np.asarray(targets.ids), np.arange(len(targets.ids))[:, None]), np.asarray(targets.probs))
    return P


@pytest.mark.parametrize("block", [4, 13, 100])
def test_blocks_change_nothing_and_the_dense_program_agrees(x64, block):
    targets, weights = sparse(0), np.random.default_rng(1).dirichlet(np.full(M, 5.0))
    problem = LayerPeeledProblem(dense(targets), weights, 0.5, 2.0)
    options = {"weights": weights, "budget_W": 0.5, "budget_H": 2.0, "steps": 300}
    found = solve_factored_tiled(jax.random.key(0), targets, 4, block=block, sweeps=40, **options)
    start = _start(jax.random.key(0), targets, 4, 0.3)
    same = solve_factored(
        jax.random.key(0), problem, 4, method="sgd", max_iter=300, init=(start.W, start.H.T), momentum=0.9
    )
    np.testing.assert_allclose(found.W, same.W, atol=1e-9)
    np.testing.assert_allclose(found.H, same.H, atol=1e-9)
    np.testing.assert_allclose(found.value, same.value, rtol=1e-12)
    np.testing.assert_allclose(found.gap, duality_gap(found.W @ found.H, problem), atol=1e-9)
    np.testing.assert_allclose(found.grad_norm, same.grad_norm, atol=1e-9)


def test_at_full_dimension_the_global_optimum_is_reached_and_certified(x64):
    found = solve_factored_tiled(jax.random.key(1), sparse(2), 12, steps=4000, block=5, sweeps=60, tol=1e-6)
    assert bool(found.converged)
    assert -1e-12 < float(found.gap) < 1e-6
    with pytest.raises(AssertionError):  # far from it the certificate says so
        assert float(solve_factored_tiled(jax.random.key(1), sparse(2), 12, steps=3, block=5).gap) < 1e-3


def test_scratch_memory_does_not_grow_with_the_number_of_contexts():
    def scratch(contexts):
        targets = sparse(0, 1000, contexts)
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("tokens", "contexts"))
        corpus = _Corpus(targets.ids, targets.probs.astype(jnp.float32), jnp.full(contexts, 1 / contexts))
        one = jnp.asarray(1.0)
        static = _Static(mesh, 1000, 64, 2, 2)
        start = _start(jax.random.key(0), targets._replace(probs=corpus.probs), 2, 0.3)
        lowered = _solve.lower(corpus, start, (one, one), (one, one), (one, one), static)
        return lowered.compile().compiled.memory_analysis().temp_size_in_bytes

    small, large = scratch(512), scratch(4096)
    logits = 4 * 1000 * (4096 - 512)
    assert large - small < logits / 5


def test_sharded_over_tokens_and_contexts_equals_one_device(run_python):
    run_python(
        """
import jax
import jax.numpy as jnp
import numpy as np
from jaxspec.peeled import solve_factored_tiled
from tests.peeled.test_tiled import sparse

jax.config.update("jax_enable_x64", True)
targets = sparse(0, 11, 37)
options = {"steps": 60, "block": 4, "sweeps": 6}
alone = solve_factored_tiled(jax.random.key(0), targets, 3, **options)
for shape in ((4, 2), (1, 8), (8, 1)):
    mesh = jax.make_mesh(shape, ("tokens", "contexts"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    divided = solve_factored_tiled(jax.random.key(0), targets, 3, mesh=mesh, **options)
    for one, other in zip(alone, divided, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
""",
        devices=8,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim is 0"),
        ({"block": 0}, "block is 0"),
        ({"init_scale": 0.0}, "saddle"),
        ({"budget_W": -1.0}, "budget_W is -1"),
        ({"momentum": np.nan}, "momentum is nan"),
        ({"weights": np.ones(M)}, "weights sums to 13"),
        ({"mesh": jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))}, "mesh has axes"),
        ({"targets": sparse(0)._replace(vocabulary=5)}, "expected 0 to 4"),
        ({"targets": sparse(0)._replace(probs=jnp.ones((M, K)))}, "targets.probs, transposed: column 0 sums to 3"),
        ({"targets": sparse(0)._replace(probs=jnp.ones((M, K + 1)))}, "expected .m, k. twice"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"key": jax.random.key(0), "targets": sparse(0), "dim": 2} | change
    with pytest.raises(ValueError, match=message):
        solve_factored_tiled(**arguments)


def test_new_numbers_do_not_recompile(x64):
    before = _solve._cached._cache_size() if hasattr(_solve, "_cached") else None
    for seed, rate in ((0, 5.0), (1, 7.0)):
        solve_factored_tiled(jax.random.key(seed), sparse(seed), 4, steps=10, learning_rate=rate, budget_W=1.0 + seed)
    assert before is None or _solve._cached._cache_size() <= before + 1

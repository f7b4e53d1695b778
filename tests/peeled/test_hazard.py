"""Transforms and eigendecompositions in compiled loops must not wait for each other for ever.

Each run has its own process, so that a stall is a failed test and not a stalled suite.
"""

PATH = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from jaxspec.peeled import LayerPeeledProblem, solve_logits_path
P = np.random.default_rng(0).dirichlet(np.ones(60), 61).T
for _ in range(10):
    path = solve_logits_path(LayerPeeledProblem(P), [0.3, 0.6, 0.9], tol=0.0, max_iter=7, check_every=3)
    assert path.iterations.tolist() == [7, 7, 7]
    assert np.isfinite(np.asarray(path.value)).all()
print("done")
"""

CYCLIC = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
from jaxspec.peeled import solve_cyclic
kernels = np.random.default_rng(0).dirichlet(np.ones(3 * 60), (4, 2)).reshape(4, 2, 3, 60).swapaxes(1, 2)
many = np.random.default_rng(0).dirichlet(np.ones(4096), 8)
solve = jax.jit(jax.vmap(lambda p: solve_cyclic(p, 1.0, tol=0.0, max_iter=20, check_every=3)))
for _ in range(10):
    for batch in (kernels, many):
        solution = solve(jnp.asarray(batch))
        assert set(solution.iterations.tolist()) == {20}
        assert np.isfinite(np.asarray(solution.value)).all()
print("done")
"""

ORBITS = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
from jaxspec.peeled import PermutationAction, solve_orbits
action = PermutationAction.cyclic(100)
P = np.random.default_rng(0).dirichlet(np.ones(100), (3, 4)).swapaxes(1, 2)
solve = jax.jit(jax.vmap(lambda p: solve_orbits(p, action, None, [100] * 4, 1.0, tol=0.0, max_iter=20, check_every=3)))
for _ in range(10):
    solution = solve(jnp.asarray(P))
    assert set(solution.iterations.tolist()) == {20}
    assert np.isfinite(np.asarray(solution.value)).all()
print("done")
"""


def test_compiled_loops_run_to_the_end(run_python):
    """Paths (SVD), cyclic programs (FFT, batched complex SVD) and orbits (eigh), ten runs each."""
    done = run_python(PATH + CYCLIC + ORBITS, timeout=90.0, env={"OPENBLAS_NUM_THREADS": "1"}, as_users_do=True)
    assert done.stdout.split() == ["done"] * 3

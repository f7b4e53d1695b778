"""Blocks of unequal shape in one compiled loop: several eigendecompositions must not wait for each other for ever.

Each run has its own process, so that a stall is a failed test and not a stalled suite.
"""

import pytest

TENSOR = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from jaxspec.completion import complete_tensor
rng = np.random.default_rng(0)
tensor, mask = rng.standard_normal((60, 61, 62)), rng.random((60, 61, 62)) < 0.5
for _ in range(6):
    result = complete_tensor(tensor, mask, tol=0.0, max_iter=20, svt="gram", history=False)
    assert int(result.info.iterations) == 20
    assert np.isfinite(np.asarray(result.tensor)).all()
print("done")
"""

GROUPS = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from jaxspec.completion import blocks, complete_tensor
rng = np.random.default_rng(0)
tensor, mask = rng.standard_normal((400, 100)), rng.random((400, 100)) < 0.5
groups = [range(30), range(20, 75), range(60, 160), range(100, 280), range(400)]
regularizer = blocks.row_groups(tensor.shape, groups, method="gram")
assert len(regularizer) == 5
for _ in range(RUNS):
    result = complete_tensor(tensor, mask, lam=1.0, regularizer=regularizer, tol=0.0, max_iter=20, history=False)
    assert int(result.info.iterations) == 20
    assert np.isfinite(np.asarray(result.tensor)).all()
print("done")
"""


COPIES = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from jaxspec.completion import game, make_groups
rng = np.random.default_rng(0)
Y, W = rng.standard_normal((400, 100)), rng.random((400, 100)) < 0.5
groups = make_groups([range(30), range(30, 130), range(130, 400), range(200), range(200, 260), range(260, 400)], 400)
for _ in range(8):
    result = game(Y, W, groups, 1.0, tol=0.0, max_iter=20, svt="gram")
    assert int(result.iterations) == 20
    assert np.isfinite(np.asarray(result.M)).all()
print("done")
"""


@pytest.mark.parametrize(
    ("snippet", "threads"),
    [(TENSOR, "2"), (GROUPS.replace("RUNS", "6"), "1"), (GROUPS.replace("RUNS", "2"), "2"), (COPIES, "1")],
    ids=["tensor", "groups", "groups_with_lapack_threads", "game"],
)
def test_unequal_blocks_in_double_precision_run_to_the_end(run_python, snippet, threads):
    done = run_python(snippet, timeout=90.0, env={"OPENBLAS_NUM_THREADS": threads}, as_users_do=True)
    assert done.stdout.strip() == "done"

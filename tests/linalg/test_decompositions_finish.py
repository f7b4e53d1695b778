"""Eigendecompositions of unequal shape in one compiled loop must finish (independent ones may wait for ever)."""

import pytest

# LAPACK's own threads spin while they wait: next to another busy process that costs a factor of fifty, and proves
# nothing.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}

SNIPPET = """
import sys
import jax
import jax.numpy as jnp
from jaxspec.linalg import eigh, ordered
from jaxspec.prox import svt

jax.config.update("jax_enable_x64", True)
targets = [jax.random.normal(jax.random.key(i), (3, 100 + i, 100)) for i in range(3)]


def shrink(z, previous):
    if sys.argv[1] == "after":
        gram = z.mT @ z
        values, vectors = eigh(gram, after=previous)
        kept = jnp.maximum(1 - 0.3 / jnp.sqrt(jnp.maximum(values, 0.09)), 0)
        return z @ (vectors * kept[..., None, :]) @ vectors.mT
    return svt(ordered(z, previous), 0.3, method=sys.argv[1])


def body(carry):
    k, x, duals = carry
    parts, previous = [], None
    for u in duals:
        previous = shrink(x[None, : u.shape[1]] - u, previous)
        parts.append(previous)
    pads = [jnp.pad((y + u).sum(0), ((0, 102 - y.shape[1]), (0, 0))) for y, u in zip(parts, duals)]
    x = sum(pads) / 18 + targets[-1].mean(0) / 2
    return k + 1, x, tuple(u + y - x[None, : y.shape[1]] for u, y in zip(duals, parts))


start = (0, targets[-1][0], tuple(jnp.zeros_like(t) for t in targets))
run = jax.jit(lambda start: jax.lax.while_loop(lambda carry: carry[0] < 20, body, start))
for _ in range(12):
    jax.block_until_ready(run(start))
print("finished")
"""


@pytest.mark.parametrize("how", ["after", "gram", "auto"])
def test_ordered_factorisations_of_unequal_shape_finish_twelve_times(run_python, how):
    assert run_python(SNIPPET, how, timeout=120.0, env=ONE_THREAD, as_users_do=True).stdout.strip() == "finished"


FOURIER = """
import jax
import jax.numpy as jnp
from jaxspec.linalg import ordered
from jaxspec.prox import tubal_svt

start = [jax.random.normal(jax.random.key(i), (30 + i, 20, 24)) for i in range(3)]


def body(carry):
    k, tensors = carry
    out = []
    for x in tensors:
        out.append(tubal_svt(ordered(x, out[-1] if out else None), 0.1))
    return k + 1, out


run = jax.jit(lambda start: jax.lax.while_loop(lambda carry: carry[0] < 20, body, (0, start)))
for _ in range(12):
    jax.block_until_ready(run(start))
print("finished")
"""


def test_ordered_fourier_transforms_and_factorisations_finish_twelve_times(run_python):
    assert run_python(FOURIER, timeout=120.0, env=ONE_THREAD, as_users_do=True).stdout.strip() == "finished"

"""Two processes of two devices each (`jax.distributed`) do what one process does: a step, a completion, sweeps."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from experiments.runner.compilation import QUICKEST
from tests.conftest import ROOT

WORK = """
import sys
import jax
import jax.numpy as jnp
import numpy as np

address, count, index, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=count, process_id=index)
jax.config.update("jax_enable_x64", True)

import functools
import optax
from jax.sharding import NamedSharding, PartitionSpec
from experiments._sweep import over_devices, sweep
from jaxspec.completion import complete_tensor, soft_impute
from jaxspec.memory import capacity
from jaxspec.optim import muon
from jaxspec.peeled import SparseTargets, solve_factored_tiled
from jaxspec.processes import gathered

assert jax.process_count() == count and jax.device_count() == 4
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
rng = np.random.default_rng(0)


def divided(x, *spec):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))


# one training step
params = {"w": divided(rng.standard_normal((8, 12)), "data"), "b": divided(rng.standard_normal(12))}
batch = divided(rng.standard_normal((16, 8)), "data")
optimiser = muon(0.1)


@jax.jit
def step(params, state, batch):
    grads = jax.grad(lambda p: jnp.mean(jnp.tanh(batch @ p["w"] + p["b"]) ** 2))(params)
    updates, state = optimiser.update(grads, state, params)
    return optax.apply_updates(params, updates)


stepped = step(params, jax.jit(optimiser.init)(params), batch)

# completions
low = rng.standard_normal((12, 2)) @ rng.standard_normal((2, 9))
mask = rng.random((12, 9)) < 0.7
table = soft_impute(divided(np.where(mask, low, 0), "data"), divided(mask, "data"), lam=0.5)
tensor = complete_tensor(
    divided(np.where(mask, low, 0).reshape(12, 3, 3), "data"), divided(mask.reshape(12, 3, 3), "data"), max_iter=50
)

# sweeps
@functools.partial(jax.jit)
def norm(x):
    return jnp.linalg.norm(x)


swept = sweep(norm, rng.standard_normal((8, 3)))


# one entry after the other, its rows divided
@functools.partial(jax.jit)
def trained(w, seed):
    def loss(w, key):
        rows = over_devices(jax.random.normal(key, (8, 3)))
        return jnp.mean(jnp.tanh(rows @ w) ** 2)

    step = lambda w, key: (w - 0.1 * jax.grad(loss)(w, key), None)
    return jax.lax.scan(step, w, jax.random.split(jax.random.key(seed), 3))[0]


parallel = sweep(trained, rng.standard_normal((2, 3)), np.arange(2), at_once=False)
found = capacity(jax.random.key(0), 6, num_seeds=4)

# tokens and contexts of a layer-peeled program
ids = np.stack([rng.permutation(6)[:2] for _ in range(10)])
targets = SparseTargets(jnp.asarray(ids), jnp.full((10, 2), 0.5), 6)
plane = jax.make_mesh((2, 2), ("tokens", "contexts"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
peeled = solve_factored_tiled(jax.random.key(0), targets, 2, mesh=plane, block=3, steps=20)

results = {
    "w": stepped["w"], "table": table.M, "tensor": tensor.tensor, "swept": swept, "low": found.low,
    "parallel": parallel, "high": found.high, "W": peeled.W, "gap": peeled.gap,
}
results = gathered(results)
if index == 0:
    np.savez(out, **results)
"""


def run(count, out):
    """The work in ``count`` processes that share four devices; the arrays that the first one saves."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // count} {QUICKEST}",
    }
    commands = [[sys.executable, "-c", WORK, address, str(count), str(index), str(out)] for index in range(count)]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        for process in processes:
            _, error = process.communicate(timeout=300)
            if process.returncode:
                pytest.fail(error)
    finally:
        for process in processes:
            process.kill()
    with np.load(out) as saved:
        return dict(saved)


def test_two_processes_do_what_one_does(tmp_path):
    one, two = (run(count, tmp_path / f"{count}.npz") for count in (1, 2))
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values, two[name], rtol=1e-8, atol=1e-10, err_msg=name)

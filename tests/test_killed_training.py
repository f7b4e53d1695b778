"""A training run that is killed keeps every checkpoint, and goes on to what it would have been."""

import os
import signal
import subprocess
import sys
import time

import numpy as np

from experiments.runner.compilation import QUICKEST
from tests.conftest import ROOT

STEPS, EVERY = 24, 4
TRAINING = f"""
import sys, time
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jaxspec.optim import freon, grasp, kaon, muon

folder, out, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
params = {{"up": jax.random.normal(jax.random.key(0), (6, 9)), "down": jnp.zeros((9, 6)), "bias": jnp.zeros(9)}}
kinds = {{
    "up": kaon(0.02, jax.random.key(3), method="iid"),
    "down": grasp(muon(0.02), jnp.eye(6)[:, :2], lambda path: "reads"),
    "bias": freon(0.02, 0.75),
}}
optimizer = optax.multi_transform(kinds, {{name: name for name in params}})


@jax.jit
def step(params, state, number):
    x = jax.random.normal(jax.random.fold_in(jax.random.key(1), number), (16, 6))
    grads = jax.grad(lambda p: jnp.mean((jnp.tanh(x @ p["up"] + p["bias"]) @ p["down"] - x[:, ::-1]) ** 2))(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


state = optimizer.init(params)
with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=2)) as manager:
    first = manager.latest_step() or 0
    print("from", first, flush=True)
    if first:
        like = ocp.args.StandardRestore((params, state))
        params, state = manager.restore(first, args=like)
    for number in range(first, {STEPS}):
        params, state = step(params, state, number)
        if (number + 1) % {EVERY} == 0:
            manager.save(number + 1, args=ocp.args.StandardSave((params, state)))
            manager.wait_until_finished()
            print("saved", number + 1, flush=True)
            time.sleep(pause)
np.savez(out, **params)
"""


def train(folder, out, pause=0.0):
    """The run, in a process of its own."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICKEST}
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(folder), str(out), str(pause)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    said, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return said.splitlines()


def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_parameters(tmp_path):
    with train(tmp_path / "killed", tmp_path / "killed.npz", pause=0.3) as killed:
        said = iter(killed.stdout.readline, "")
        if f"saved {3 * EVERY}\n" in said:  # reads until then
            time.sleep(0.1)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait(timeout=30) == -signal.SIGKILL, killed.stderr.read()
    assert not (tmp_path / "killed.npz").exists()
    with train(tmp_path / "whole", tmp_path / "whole.npz") as whole:
        assert finished(whole)[0] == "from 0"
    with train(tmp_path / "killed", tmp_path / "killed.npz") as resumed:
        assert int(finished(resumed)[0].split()[1]) >= 3 * EVERY
    with np.load(tmp_path / "whole.npz") as expected, np.load(tmp_path / "killed.npz") as found:
        assert set(expected) == {"up", "down", "bias"}
        for name in expected:
            np.testing.assert_array_equal(expected[name], found[name])

"""One set of trajectories for all tests of the steppers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.flow import hamiltonian_flow, integrate
from tests.flow.problems import particles, tanh_problem

METHODS = ("muon", "leapfrog", "leapfrog_split", "suzuki4", "discrete_gradient")
COUNTS = (20, 40, 80)


@pytest.fixture(scope="session")
def tanh_runs():
    """method -> n -> (last state, H - H_0 + trapezoid at every step, H at every step, all converged), t = 4.

    Chunks of twenty steps: one compilation a method.
    """
    with jax.enable_x64(True):
        objective = tanh_problem()
        runs = {}
        for method in METHODS:
            flow = hamiltonian_flow(objective, eps=0.1, method=method, polar_engine="svd")
            for count in COUNTS:
                state, defect, energies = flow.init(jnp.asarray(particles(16))), [jnp.zeros(1)], []
                solved = True
                for _ in range(count // 20):
                    state, seen = integrate(flow, state, dt=4 / count, num_steps=20)
                    defect.append(defect[-1][-1] + seen.identity_defect[1:])
                    energies.append(seen.hamiltonian if not energies else seen.hamiltonian[1:])
                    solved = solved and bool(seen.converged.all())
                found = state, jnp.concatenate(defect), jnp.concatenate(energies), solved, seen
                runs[method, count] = jax.tree.map(np.asarray, found)
        return runs

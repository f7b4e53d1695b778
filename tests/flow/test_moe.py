"""The smooth mixture of experts against NumPy, and its energy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax

from jaxspec.flow import hamiltonian_flow, integrate, mean_field
from jaxspec.flow.moe import SmoothMoEBlock, moe_objective


def numpy_expert(p, x, tau, floor):
    def nrm(a):
        return a / np.sqrt(np.mean(a**2, axis=-1, keepdims=True) + floor)

    h = nrm(x)
    q, k = h @ p["wq"], h @ p["wk"]
    u = softmax(q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1]), axis=-1) @ (h @ p["wv"]) @ p["wo"]
    a = nrm(x + u) @ p["w1"]
    return np.exp(tau * np.tanh(h @ p["r"] / tau)), u + (a * (1 + erf(a / np.sqrt(2))) / 2) @ p["w2"]


def test_experts_are_what_the_formula_says(x64):
    block = SmoothMoEBlock(dim=4, key_dim=2, hidden=3, tau=1.5)
    tokens = jax.random.normal(jax.random.key(0), (2, 3, 4))
    experts = block.init(jax.random.key(1), 3)
    objective = moe_objective(block, tokens, jnp.sin(tokens), readout=jnp.tanh)
    one = [{k: np.asarray(v[i]) for k, v in experts.items()} for i in range(3)]
    gates, outs = zip(*(numpy_expert(p, np.asarray(tokens), 1.5, 1e-2) for p in one), strict=True)
    expected = tokens + sum(g * e for g, e in zip(gates, outs, strict=True)) / sum(gates)
    field = mean_field(objective, experts)
    np.testing.assert_allclose(block.output(field, tokens), expected, atol=1e-13)
    loss = np.mean(np.sum((np.tanh(expected) - np.sin(tokens)) ** 2, axis=-1)) / 2
    np.testing.assert_allclose(objective.risk(field), loss, rtol=1e-13)


def test_energy_falls_and_new_data_need_no_compilation(x64):
    from jaxspec.flow.integrate import _run

    block = SmoothMoEBlock(dim=4, key_dim=2, hidden=4)
    sizes = []
    for seed in range(2):
        tokens = jax.random.normal(jax.random.key(seed), (2, 3, 4))
        flow = hamiltonian_flow(moe_objective(block, tokens, jnp.sin(tokens)), eps=0.05, gamma=2.0)
        _, seen = integrate(flow, flow.init(block.init(jax.random.key(9), 6)), dt=0.02, num_steps=20)
        assert np.all(np.diff(seen.hamiltonian) < 0)
        sizes.append(_run._cached._cache_size())
    assert sizes[0] == sizes[1]


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="hidden is 0"):
        SmoothMoEBlock(4, 2, 0)
    with pytest.raises(ValueError, match="tau is -1"):
        SmoothMoEBlock(4, 2, 4, tau=-1.0)
    with pytest.raises(ValueError, match="tokens have shape"):
        moe_objective(SmoothMoEBlock(4, 2, 4), jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3)))

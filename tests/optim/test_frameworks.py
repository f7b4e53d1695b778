"""The same optimiser trains a plain pytree, a flax.linen, a flax.nnx and an equinox model."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxspec.optim import MatrixDims, freon, kaon, muon

WIDTH, STEPS = 8, 25
OPTIMISERS = {
    "muon": lambda **options: muon(0.05, **options),
    "freon": lambda **options: freon(0.05, **options),
    "kaon": lambda **options: kaon(0.05, **options),
}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, WIDTH)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(np.tanh(x @ rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)))


def mean_square(a, b):
    return jnp.mean((a - b) ** 2)


def train(loss, params, tx):
    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, values = tx.init(params), []
    for _ in range(STEPS):
        params, state, value = step(params, state)
        values.append(float(value))
    assert step._cache_size() == 1
    return values


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_plain_pytree(data, random_tree, name, dtype):
    params = random_tree({"hidden": {"w": (WIDTH, 16), "b": (16,)}, "out": (16, WIDTH)}, scale=0.3, dtype=dtype)

    def loss(p):
        hidden = jnp.tanh(data[0].astype(dtype) @ p["hidden"]["w"] + p["hidden"]["b"])
        return mean_square((hidden @ p["out"]).astype(jnp.float32), data[1])

    values = train(loss, params, OPTIMISERS[name]())
    assert values[-1] < 0.4 * values[0]


def test_linen_with_attention_heads(data):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(16)(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=2)(x[:, None])[:, 0]
            return nn.Dense(WIDTH, name="head")(jnp.tanh(x))

    def dims(params):
        def of(path, leaf):
            if leaf.ndim != 3:
                return MatrixDims() if leaf.ndim == 2 and "head" not in jax.tree_util.keystr(path) else None
            # (inputs, heads, head_dim) and, on the way out, (heads, head_dim, outputs)
            if "'out'" in jax.tree_util.keystr(path):
                return MatrixDims((0, 1), 2)
            return MatrixDims(0, (1, 2))

        return jax.tree_util.tree_map_with_path(of, params)

    model = Model()
    params = model.init(jax.random.key(0), data[0])
    loss = lambda p: mean_square(model.apply(p, data[0]), data[1])  # noqa: E731
    values = train(loss, params, muon(0.05, dimension_numbers=dims))
    assert values[-1] < 0.4 * values[0]


def test_nnx(data):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(WIDTH, 16, rngs=rngs)
            self.head = nnx.Linear(16, WIDTH, rngs=rngs)

        def __call__(self, x):
            return self.head(jnp.tanh(self.hidden(x)))

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, freon(0.05), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(lambda m: mean_square(m(data[0]), data[1]))(model)
        optimizer.update(model, grads)
        return value

    values = [float(step(model, optimizer)) for _ in range(STEPS)]
    assert values[-1] < 0.4 * values[0]


def test_equinox(data):
    model = eqx.nn.MLP(WIDTH, WIDTH, 16, 2, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    # equinox stores (out, in)
    tx = kaon(0.05, dimension_numbers=lambda p: jax.tree.map(lambda x: MatrixDims(1, 0) if x.ndim == 2 else None, p))
    loss = lambda p: mean_square(jax.vmap(eqx.combine(p, static))(data[0]), data[1])  # noqa: E731
    values = train(loss, params, tx)
    assert values[-1] < 0.4 * values[0]

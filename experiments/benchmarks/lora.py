"""Identification of the shared direction of an adapter against dense SVDs, and what GRASP adds to a training step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.frame import Contestant, Row, at_most, time_at_most
from jaxspec.lora import identify_factors
from jaxspec.optim import grasp

WIDTH, MATRICES, RANK = 4096, 64, 16


class _Planted:
    """Square writers that share one direction, in noise; and how well a direction meets it."""

    def __init__(self, width: int, matrices: int, rank: int):
        rng = np.random.default_rng(0)
        draw = partial(rng.standard_normal, dtype=np.float32)
        u = draw(width)
        self.u = u / np.linalg.norm(u)
        self.factors = [
            (draw((rank, width)), draw((width, rank)) + 30 * np.outer(self.u, draw(rank))) for _ in range(matrices)
        ]
        self.adapter = {
            f"layers.{i}.mlp.down_proj": {"a": jnp.asarray(a), "b": jnp.asarray(b)}
            for i, (a, b) in enumerate(self.factors)
        }

    def identify(self, engine: str) -> Callable[[], jax.Array]:
        return lambda: identify_factors(self.adapter, engine=engine).directions

    def thin(self) -> np.ndarray:
        stacked = [b @ np.linalg.qr(a.T, mode="r").T for a, b in self.factors]
        return np.linalg.svd(np.concatenate(stacked, axis=1), full_matrices=False)[0]

    def dense(self) -> np.ndarray:
        a, b = self.factors[0]
        return np.linalg.svd(b @ a)[0]

    def quality(self, output: Any) -> dict[str, float]:
        return {"|cos|": float(abs(np.asarray(output)[:, 0] @ self.u))}


def identify_row(engine: str, dense: bool) -> Row:
    """One of the two routes, whole report included; with ``dense`` also against one dense SVD, which takes long."""
    planted = _Planted(WIDTH, MATRICES, RANK)
    peers = {"thin": Contestant(planted.thin, "NumPy: QR of each a, SVD of all thin factors", quality=planted.quality)}
    if dense:
        settings = "numpy.linalg.svd of the first matrix only"
        peers["dense"] = Contestant(planted.dense, settings, quality=planted.quality)
    return Row(
        f"Shared direction of {MATRICES} adapters of rank {RANK}, width {WIDTH}, float32, with its nulls",
        Contestant(planted.identify(engine), f"identify_factors, {engine}", quality=planted.quality),
        peers,
        aims=(time_at_most(0.3),),
        most_rounds=1 if dense else None,
    )


def grasp_row(width: int, hidden: int, layers: int, tokens: int, rank: int, k: int) -> Row:
    """A step of AdamW on adapters of the down-projections of an MLP stack, with and without the projections."""
    keys = jax.random.split(jax.random.key(0), 5)
    normal = lambda key, *shape: jax.random.normal(key, shape) / shape[-2] ** 0.5  # noqa: E731
    frozen = normal(keys[0], layers, width, hidden), normal(keys[1], layers, hidden, width)
    x = jax.random.normal(keys[2], (tokens, width))
    params = {"a": normal(keys[3], layers, rank, hidden), "b": jnp.zeros((layers, width, rank))}

    def loss(params, x):
        def block(h, layer):
            (up, down), leaf = layer
            inner = jax.nn.gelu(h @ up)
            return h + inner @ down + (inner @ leaf["a"].T) @ leaf["b"].T, None

        h, _ = jax.lax.scan(block, x, (frozen, params))
        return jnp.mean((h - jnp.roll(x, 1, axis=0)) ** 2)

    def contestant(tx: optax.GradientTransformation, settings: str) -> Contestant:
        state = tx.init(params)

        @jax.jit
        def step(params, state):
            updates, state = tx.update(jax.grad(loss)(params, x), state, params)
            return optax.apply_updates(params, updates), state

        return Contestant(partial(step, params, state), settings)

    u, _ = jnp.linalg.qr(jax.random.normal(keys[4], (width, k)))
    inner = optax.adamw(1e-3, weight_decay=0.1)
    return Row(
        f"LoRA step, rank {rank} on {layers} down-projections {hidden}→{width}, {tokens} tokens, float32",
        contestant(grasp(inner, u, {"a": "none", "b": "writes"}), f"grasp(adamw), {k} directions"),
        {"adamw": contestant(inner, "optax.adamw")},
        "step",
        aims=(at_most("adamw", 1.03),),
    )


ROWS: dict[str, Callable[[], Row]] = {
    "identify_gram": partial(identify_row, "gram", dense=False),
    "identify_subspace": partial(identify_row, "subspace", dense=False),
    "identify_dense": partial(identify_row, "auto", dense=True),
    "grasp_4x512": partial(grasp_row, 512, 2048, 4, 512, 16, 4),
}

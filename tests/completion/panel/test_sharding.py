"""A panel whose rows are divided over devices is fitted like one that is not."""

import json

SNIPPET = """
import json
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxspec.completion import row_scaled_spectral

rng = np.random.default_rng(0)
X, Z = rng.uniform(-1, 1, (64, 2)), rng.uniform(-1, 1, (24, 2))
D = rng.random((64, 24)) < 0.5
Y = (X @ Z.T + D * (1 + X[:, :1]) + 0.1 * rng.standard_normal(D.shape)).astype(np.float32)
run = jax.jit(lambda y, d: row_scaled_spectral(y, d, rank="flip", rank_max=3, refine=2, validate=False))
place = NamedSharding(Mesh(np.array(jax.devices()), ("d",)), PartitionSpec("d"))
# One after the other: the whole panel's factorisations would share the threads that the divided one waits for.
single = jax.block_until_ready(run(Y, D))
result = jax.block_until_ready(run(jax.device_put(Y, place), jax.device_put(D, place)))
print(json.dumps({
    "devices": len(jax.devices()),
    "error": float(np.abs(np.asarray(result.effect) - np.asarray(single.effect)).max()),
    "size": float(np.abs(np.asarray(single.effect)).max()),
    "ranks": [single.rank.tolist(), result.rank.tolist()],
    "shards": len({str(shard.index) for shard in result.effect.addressable_shards}),
}))
"""


def test_a_panel_divided_by_rows_is_fitted_like_the_whole(run_python):
    # With the default scheduler the emulated devices can wait for each other for ever: it reorders their exchanges.
    flags = ("force_host_platform_device_count=8", "backend_optimization_level=0")
    flags += ("cpu_enable_concurrency_optimized_scheduler=false",)
    env = {"XLA_FLAGS": " ".join(f"--xla_{flag}" for flag in flags)}
    seen = json.loads(run_python(SNIPPET, timeout=120.0, env=env).stdout)
    assert seen["devices"] == 8
    assert seen["error"] <= 1e-5 * seen["size"]
    assert seen["ranks"][0] == seen["ranks"][1]
    assert seen["shards"] == 8, "the result should stay divided"

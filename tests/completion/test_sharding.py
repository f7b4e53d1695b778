"""A tensor that is divided over devices is completed like one that is not."""

import json

SNIPPET = """
import json, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxspec.completion import complete_tensor

rng = np.random.default_rng(0)
factors = [rng.standard_normal((n, 2)) for n in (8, 10, 16)]
tensor = np.einsum("ir,jr,kr->ijk", *factors).astype(np.float32)
mask = rng.random(tensor.shape) < 0.6
run = jax.jit(lambda t, m: complete_tensor(t, m, svt="gram", tol=1e-5, validate=False, history=False))
single = run(tensor, mask)
assert len(jax.devices()) == 8
mesh = Mesh(np.array(jax.devices()), ("d",))
seen = []
for spec in (PartitionSpec(None, None, "d"), PartitionSpec("d")):
    place = NamedSharding(mesh, spec)
    begin = time.perf_counter()
    result = jax.block_until_ready(run(jax.device_put(tensor, place), jax.device_put(mask, place)))
    seen.append({
        "error": float(jnp.max(jnp.abs(np.asarray(result.tensor) - np.asarray(single.tensor)))),
        "size": float(np.abs(tensor).max()),
        "iterations": [int(single.info.iterations), int(result.info.iterations)],
        "converged": bool(result.info.converged),
        "shards": len({str(shard.index) for shard in result.tensor.addressable_shards}),
        "seconds": time.perf_counter() - begin,
    })
print(json.dumps(seen))
"""


GROUPS = """
import json
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxspec.completion import game, make_groups

rng = np.random.default_rng(0)
Y = (rng.standard_normal((32, 2)) @ rng.standard_normal((2, 16))).astype(np.float32)
W = (rng.random(Y.shape) < 0.7).astype(np.float32)
groups = make_groups([range(16), range(16, 32), range(0, 32, 2), range(1, 32, 2)], 32)
run = jax.jit(lambda y, w: game(y, w, groups, 0.3, tol=0.0, max_iter=30, validate=False))
place = NamedSharding(Mesh(np.array(jax.devices()), ("d",)), PartitionSpec("d"))
single, result = run(Y, W), run(jax.device_put(Y, place), jax.device_put(W, place))
print(json.dumps({
    "error": float(np.abs(np.asarray(result.M) - np.asarray(single.M)).max()),
    "iterations": [int(single.iterations), int(result.iterations)],
    "shards": len({str(shard.index) for shard in result.M.addressable_shards}),
}))
"""


EXPLICIT = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxspec.completion import complete_tensor

mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
tensor = jax.device_put(jnp.ones((8, 3, 3)), NamedSharding(mesh, PartitionSpec("d")))
try:
    complete_tensor(tensor, validate=False)
except ValueError as error:
    print(error)
"""


def test_completion_of_a_sharded_tensor_is_that_of_the_whole(run_python):
    for seen in json.loads(run_python(SNIPPET, devices=8, timeout=180.0).stdout):
        assert seen["converged"]
        assert seen["error"] <= 1e-5 * seen["size"]
        assert abs(seen["iterations"][0] - seen["iterations"][1]) <= 1
        assert seen["shards"] == 8, "the result should stay divided"


def test_groups_of_a_table_that_is_divided_by_rows(run_python):
    seen = json.loads(run_python(GROUPS, devices=8, timeout=180.0).stdout)
    assert seen["error"] <= 1e-4
    assert seen["iterations"][0] == seen["iterations"][1]
    assert seen["shards"] == 8, "the result should stay divided"


def test_explicit_mesh_axes_are_refused_by_name(run_python):
    assert "expected axes of type" in run_python(EXPLICIT, devices=8).stdout

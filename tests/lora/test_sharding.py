"""Adapters and hooks on eight devices give what they give on one."""

SNIPPET = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxspec.lora import ablate, apply, block_cotangent, project_delta, reliance, truncate_delta

rng = np.random.default_rng(0)
normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))
put = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, P(*axes)))
params = {"down_proj": {"kernel": normal(16, 8)}, "q_proj": {"kernel": normal(8, 16)}}
adapter = {"down_proj": {"a": normal(2, 16), "b": normal(8, 2)}, "q_proj": {"a": normal(2, 8), "b": normal(16, 2)}}
u, h = normal(8, 1), normal(4, 8)
placed = {
    "down_proj": {"a": put(adapter["down_proj"]["a"], None, "model"), "b": put(adapter["down_proj"]["b"], "model")},
    "q_proj": {"a": put(adapter["q_proj"]["a"], None, "model"), "b": put(adapter["q_proj"]["b"], "model")},
}
kernels = {"down_proj": {"kernel": put(params["down_proj"]["kernel"], "model", None)},
           "q_proj": {"kernel": put(params["q_proj"]["kernel"], None, "model")}}

def everything(params, adapter, h):
    along = jax.grad(lambda h: jnp.sum(block_cotangent(h, u) ** 3))(h)
    cut = truncate_delta(adapter, keep=1)
    shares = [one.share for one in reliance(adapter, u).values()]
    projected = project_delta(adapter, u)
    return apply(params, projected, 0.5), along, ablate(h, u), [leaf["b"] @ leaf["a"] for leaf in cut.values()], shares

one = jax.jit(everything)(params, adapter, h)
many = jax.jit(everything)(kernels, placed, put(h, "data", "model"))
jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), one, many)
assert many[0]["q_proj"]["kernel"].shape == (8, 16)
apply(kernels, placed)  # outside jit as well
print(len(jax.devices()), "agree")
"""


def test_eight_devices_agree_with_one(run_python):
    assert run_python(SNIPPET, devices=8).stdout.strip() == "8 agree"

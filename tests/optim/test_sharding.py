"""Eight emulated devices: what is divided equals what is not, and the map itself never communicates."""

import pytest

SET_UP = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxspec.optim import MatrixDims, scale_by_freon, scale_by_kaon, scale_by_muon

COLLECTIVES = r"\\b(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\\("
SHAPES = {"stack": (16, 8, 16), "w": (8, 16), "tall": (16, 8), "other": (6, 8)}
DIMS = {"stack": MatrixDims(-2, -1), "w": None, "tall": None, "other": None}
rng = np.random.default_rng(0)
host = {k: rng.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items()}
JORDAN = dict(engine="newton_schulz", schedule="jordan")


def mesh_of(kind):
    return jax.make_mesh((8,), ("data",), axis_types=(kind,))


def placed(mesh, specs):
    return {k: jax.device_put(v, NamedSharding(mesh, specs.get(k, P()))) for k, v in host.items()}


def unsharded(tx):
    g = jax.tree.map(jnp.asarray, host)
    return jax.jit(tx.update)(g, tx.init(g))[0]


def check(updates, expected, atol=1e-5):
    for k in expected:
        np.testing.assert_allclose(np.asarray(updates[k]), np.asarray(expected[k]), atol=atol)
"""

STACKED = """
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = mesh_of(kind)
    divided = scale_by_muon(dimension_numbers=MatrixDims(-2, -1), mesh=mesh, axis="data", **JORDAN)
    whole = scale_by_muon(dimension_numbers=MatrixDims(-2, -1), **JORDAN)
    lies = NamedSharding(mesh, P("data"))
    reference = {"first": jnp.asarray(host["stack"]), "second": jnp.asarray(host["stack"][:8] ** 2)}
    g = jax.device_put(reference, lies)
    state = divided.init(g)
    step = jax.jit(divided.update).lower(g, state).compile()
    assert not re.search(COLLECTIVES, step.as_text()), "the stacked bucket communicates"
    assert "f32[3,8,16]" in step.as_text(), "no device works on its three matrices"
    updates, _ = step(g, state)
    assert all(u.sharding.is_equivalent_to(lies, 3) for u in updates.values())
    check(updates, whole.update(reference, whole.init(reference))[0])
"""

LONG_SIDE = """
specs = {"stack": P(None, None, "data"), "w": P(None, "data"), "tall": P("data"), "other": P(None, "data")}
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = mesh_of(kind)
    for tx in (scale_by_muon(dimension_numbers=DIMS, **JORDAN),
               scale_by_freon(0.75, eps=1e-2, tol=5e-2, engine="recombine", dimension_numbers=DIMS)):
        g = placed(mesh, specs)
        lies = {k: v.sharding for k, v in g.items()}
        step = jax.jit(lambda g, s: tx.update(g, s)[0], out_shardings=lies).lower(g, tx.init(g)).compile()
        text = step.as_text()
        assert re.search(r"all-reduce(-start)?\\(", text), "no sum over the long side"
        assert not re.search(r"all-gather(-start)?\\(", text), "a matrix is gathered"
        check(step(g, tx.init(g)), unsharded(tx))
"""

REPLICATED = """
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = mesh_of(kind)
    g = placed(mesh, {})
    everywhere = {k: NamedSharding(mesh, P()) for k in g}
    # The chaotic map multiplies a difference in rounding by up to 4.1^5.
    for build, atol in ((lambda **o: scale_by_muon(**JORDAN, **o), 1e-5), (lambda **o: scale_by_kaon(**o), 2e-4),
                        (lambda **o: scale_by_kaon(jax.random.key(0), method="iid", **o), 1e-5)):
        divided, whole = build(dimension_numbers=DIMS, mesh=mesh, axis="data"), build(dimension_numbers=DIMS)
        state = divided.init(g)
        step = jax.jit(lambda g, s: divided.update(g, s)[0], out_shardings=everywhere).lower(g, state).compile()
        updates = step(g, state)
        assert all(u.sharding.is_fully_replicated for u in updates.values())
        # Of 8 x 16, every device has two of the stack and one of the two others padded to eight; of 6 x 8, one has all.
        assert "f32[3,8,16]" in step.as_text() and "f32[1,6,8]" in step.as_text()
        # Nothing is communicated before or inside the map; its results are gathered once: stack, two others, lone one.
        assert [name for name, _ in re.findall(COLLECTIVES, step.as_text())] == ["all-gather"] * 3
        check(updates, unsharded(whole), atol)
"""

EAGER_AND_TWO_AXES = """
mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
tx = scale_by_muon(dimension_numbers=DIMS, mesh=mesh, axis="data", **JORDAN)
g = placed(mesh, {"stack": P("data", None, "model"), "w": P(None, "model")})
check(jax.jit(tx.update)(g, tx.init(g))[0], unsharded(scale_by_muon(dimension_numbers=DIMS, **JORDAN)))
plain = jax.tree.map(jnp.asarray, host)
check(tx.update(plain, tx.init(plain))[0], unsharded(scale_by_muon(dimension_numbers=DIMS, **JORDAN)))
"""


@pytest.mark.parametrize(
    "snippet",
    [STACKED, LONG_SIDE, REPLICATED, EAGER_AND_TWO_AXES],
    ids=["stack on its batch axis", "matrices on the long side", "replicated round robin", "eager, two axes"],
)
def test_divided_work_equals_the_whole(run_python, snippet):
    done = run_python(SET_UP + snippet + "print('finished')", devices=8, timeout=300.0)
    assert done.stdout.strip() == "finished"

"""`project_updates`: what is removed, from which axis, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxspec.optim import grasp, project_updates

D, K = 12, 2
ROLES = {"down": "writes", "up": "reads", "square": "both", "other": "none", "stack": "writes", "bias": "writes"}
SHAPES = {"down": (D, 5), "up": (3, D), "square": (D, D), "other": (7,), "stack": (2, 3, D, 4), "bias": (D,)}


def directions(d=D, k=K, seed=7):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, k)))[0]


def expected(x, u, role):
    """The projection as NumPy has it, with the projector in full."""
    p = np.eye(len(u)) - u @ u.T
    x = np.asarray(x, np.float64)
    if x.ndim == 1:
        return p @ x if role != "none" else x
    x = p @ x if role in ("writes", "both") else x
    return x @ p if role in ("reads", "both") else x


def apply(tx, updates, params=None):
    return tx.update(updates, tx.init(updates if params is None else params), params)[0]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 3e-6), (jnp.bfloat16, 2e-2), (jnp.float16, 3e-3), (jnp.float64, 1e-14)]
)
def test_equals_the_full_projector(random_tree, dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        g = random_tree(SHAPES, dtype=dtype)
        u = directions()
        projected = apply(project_updates(jnp.asarray(u, dtype if dtype == jnp.float64 else jnp.float32), ROLES), g)
        for name, x in projected.items():
            assert x.dtype == dtype
            wanted = expected(g[name], u, ROLES[name])
            np.testing.assert_allclose(np.asarray(x, np.float64), wanted, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_any_scale(random_tree, scale):
    g, u = random_tree({"down": (D, 5)}, scale=scale), directions()
    projected = apply(project_updates(jnp.asarray(u, jnp.float32), "writes"), g)
    wanted = expected(g["down"], u, "writes")
    np.testing.assert_allclose(projected["down"] / scale, wanted / scale, atol=1e-5)


def test_idempotent_and_independent_of_the_basis(random_tree):
    g, u = random_tree(SHAPES), directions()
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(K, K)))[0]
    once, turned = (apply(project_updates(jnp.asarray(v, jnp.float32), ROLES), g) for v in (u, u @ turn))
    twice = apply(project_updates(jnp.asarray(u, jnp.float32), ROLES), once)
    for name in SHAPES:
        np.testing.assert_allclose(once[name], twice[name], atol=2e-6)
        np.testing.assert_allclose(once[name], turned[name], atol=2e-6)


def test_columns_of_any_length_and_angle_are_made_orthonormal(random_tree):
    g, u = random_tree(SHAPES), directions()
    skew = u @ np.array([[1.0, 1.0], [0.0, 0.1]]) * np.array([1e-12, 1e12])
    skewed = jax.jit(lambda v, g: apply(project_updates(v, ROLES), g))(jnp.asarray(skew, jnp.float32), g)
    outside = apply(project_updates(skew, ROLES), g)
    for name in SHAPES:
        np.testing.assert_allclose(outside[name], expected(g[name], u, ROLES[name]), atol=2e-5)
        np.testing.assert_allclose(skewed[name], outside[name], atol=2e-5)


def test_dependent_columns_are_dropped_with_a_warning(random_tree):
    g, u = random_tree(SHAPES), directions()
    repeated = np.concatenate([u, u.sum(axis=1, keepdims=True), np.zeros((D, 1))], axis=1)
    with pytest.warns(UserWarning, match="4 columns of rank 2"):
        tx = project_updates(repeated, ROLES)
    assert tx.init(g).directions.shape == (D, K)
    inside = jax.jit(lambda v, g: apply(project_updates(v, ROLES), g))(jnp.asarray(repeated, jnp.float32), g)
    for name in SHAPES:
        np.testing.assert_allclose(apply(tx, g)[name], expected(g[name], u, ROLES[name]), atol=5e-6)
        np.testing.assert_allclose(inside[name], expected(g[name], u, ROLES[name]), atol=5e-6)


def test_the_whole_space_leaves_nothing(random_tree):
    g = random_tree(SHAPES)
    projected = apply(project_updates(directions(k=D), ROLES), g)
    for name, x in projected.items():
        np.testing.assert_array_equal(x, g[name] if ROLES[name] == "none" else 0)


def test_no_directions_change_nothing(random_tree):
    g = random_tree(SHAPES)
    projected = apply(project_updates(jnp.zeros((D, 0)), ROLES, retract=True), g, g)
    assert all(projected[name] is g[name] for name in SHAPES)


def test_roles_by_path_and_by_prefix(random_tree):
    g = {"layers": [random_tree({"a": (4, D), "b": (D, 4)}, seed) for seed in (0, 1)], "head": jnp.ones((D, 3))}
    u = jnp.asarray(directions(), jnp.float32)
    seen = []

    def role(path):
        seen.append(path)
        return {"a": "reads", "b": "writes"}.get(path.split("/")[-1], "none")

    by_path = apply(project_updates(u, role), g)
    prefix = {"layers": [{"a": "reads", "b": "writes"}] * 2, "head": "none"}
    by_prefix = apply(project_updates(u, prefix), g)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), by_path, by_prefix))
    assert set(seen) == {"head", "layers/0/a", "layers/0/b", "layers/1/a", "layers/1/b"}
    np.testing.assert_allclose(by_path["layers"][1]["a"], expected(g["layers"][1]["a"], u, "reads"), atol=2e-6)


def test_every_leaf_may_have_directions_of_its_own(random_tree):
    g = random_tree({"gained": (3, D), "layers": (2, D, 4), "experts": (2, 3, D, 4), "wide": (5, 4), "other": (4,)})
    roles = {"gained": "reads", "layers": "writes", "experts": "writes", "wide": "writes", "other": "none"}
    layers = np.stack([directions(seed=1), directions(seed=2)])
    own = {"gained": directions(seed=3), "layers": layers, "experts": layers, "wide": directions(5, 1), "other": None}
    projected = apply(project_updates(own, roles), g)
    np.testing.assert_allclose(projected["gained"], expected(g["gained"], own["gained"], "reads"), atol=2e-6)
    np.testing.assert_allclose(projected["wide"], expected(g["wide"], own["wide"], "writes"), atol=2e-6)
    for name in ("layers", "experts"):
        for layer in range(2):
            wanted = expected(g[name][layer], layers[layer], "writes")
            np.testing.assert_allclose(projected[name][layer], wanted, atol=2e-6)


@pytest.mark.parametrize("role", ["writes", "reads", "both"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_retraction_restores_what_the_parameter_did_at_first(random_tree, role, dtype):
    start = random_tree({"w": (D, D)}, dtype=dtype)
    drifted = jax.tree.map(lambda x: x + jnp.asarray(0.1, dtype), start)
    g, u = random_tree({"w": (D, D)}, seed=1, scale=0.1, dtype=dtype), directions()
    tx = project_updates(jnp.asarray(u, jnp.float32), role, retract=True)
    updates, _ = jax.jit(tx.update)(g, tx.init(start), drifted)
    new = np.asarray(optax.apply_updates(drifted, updates)["w"], np.float64)
    first, old = (np.asarray(x["w"], np.float64) for x in (start, drifted))
    atol = {jnp.float32: 2e-6, jnp.bfloat16: 3e-2}[dtype]
    if role in ("writes", "both"):
        np.testing.assert_allclose(u.T @ new, u.T @ first, atol=atol)
    if role in ("reads", "both"):
        np.testing.assert_allclose(new @ u, first @ u, atol=atol)
    off = expected(old + np.asarray(g["w"], np.float64), u, role)
    np.testing.assert_allclose(expected(new, u, role), off, atol=atol)


def test_auto_retracts_low_precision_only(random_tree):
    params = random_tree({"low": (D, 2)}, dtype=jnp.bfloat16) | random_tree({"high": (D, 2)})
    state = project_updates(directions(), "writes", retract="auto").init(params)
    assert state.anchors["high"] is None
    assert state.anchors["low"].left.shape == (K, 2)
    assert project_updates(directions(), "writes").init(params).anchors == {"low": None, "high": None}


@pytest.mark.parametrize(
    ("u", "roles", "message"),
    [
        (np.full((D, 1), np.nan), ROLES, "not finite"),
        (np.ones((D, D + 1)), ROLES, r"\(12, 13\)"),
        (np.ones(()), ROLES, r"shape \(\)"),
        ({"down": np.ones((D, D + 1))}, ROLES, r"directions\['down'\]"),
        (directions(), ROLES | {"down": "reads"}, r"down has shape \(12, 5\).*\(12, 2\).*axis -1.*12"),
        (directions(), ROLES | {"other": "writes"}, r"other has shape \(7,\)"),
        (directions(), ROLES | {"down": "write"}, "the role of down is 'write'"),
        (directions(), "none", "select no parameter"),
        (directions(), {"down": "writes"}, "roles is not a prefix"),
        (directions(), lambda path: "writes" if path == "down" else None, r"\['bias', 'square', 'stack', 'up'\]"),
        (np.ones((3, D, 1)), ROLES, r"leading axes to be \(3,\)"),
        (dict.fromkeys(SHAPES), ROLES, "its directions are None"),
    ],
)
def test_bad_input_is_refused_at_init(random_tree, u, roles, message):
    with pytest.raises(ValueError, match=message):
        project_updates(u, roles).init(random_tree(SHAPES))


def test_dtypes_and_missing_parameters_are_refused(random_tree):
    g = random_tree({"w": (D, 2)})
    with pytest.raises(TypeError, match=r"directions.*int"):
        project_updates(np.ones((D, 1), int), "writes")
    with pytest.raises(TypeError, match="w has dtype int32"):
        apply(project_updates(directions(), "writes"), {"w": jnp.ones((D, 2), jnp.int32)})
    tx = project_updates(directions(), "writes", retract=True)
    state = tx.init(g)
    with pytest.raises(ValueError, match="params is None"):
        tx.update(g, state)


def test_directions_that_are_not_finite_are_refused_under_a_trace(random_tree):
    g = random_tree({"w": (D, 2)})
    with pytest.raises(Exception, match="not finite"):
        jax.block_until_ready(
            jax.jit(lambda u: apply(project_updates(u, "writes"), g))(jnp.full((D, 1), jnp.inf, jnp.float32))
        )


def test_an_unknown_retraction_is_refused_without_type_checks(run_python):
    snippet = """
from jaxspec.optim import grasp, project_updates
try:
    project_updates([[1.0], [0.0]], "writes", retract="always")
except ValueError as error:
    print("always" in str(error))
"""
    assert run_python(snippet).stdout.split() == ["True"]


def test_constant_directions_inside_a_traced_function(random_tree):
    """They are numbers there too: dependent columns are dropped and the whole space leaves nothing."""
    g, u = random_tree({"w": (D, 2)}), directions()
    skew = np.concatenate([u, 2 * u[:, :1]], axis=1)

    def step(g):
        with pytest.warns(UserWarning, match="3 columns of rank 2"):
            dropped = apply(project_updates(skew, "writes"), g)
        return dropped, apply(project_updates(directions(k=D), "writes"), g)

    dropped, nothing = jax.jit(step)(g)
    np.testing.assert_allclose(dropped["w"], expected(g["w"], u, "writes"), atol=3e-6)
    np.testing.assert_array_equal(nothing["w"], 0)


def test_one_direction_may_have_one_axis(random_tree):
    g, u = random_tree(SHAPES), jnp.asarray(directions(k=1), jnp.float32)
    for wrap in (lambda u: project_updates(u, ROLES), lambda u: grasp(optax.sgd(1.0), u, ROLES)):
        flat, column = (apply(wrap(v), g) for v in (3 * u[:, 0], u))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), flat, column)

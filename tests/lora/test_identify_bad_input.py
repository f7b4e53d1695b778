import jax.numpy as jnp
import numpy as np
import pytest

from jaxspec.lora import identify_factors

D = 8


def leaf(out=D, inp=5, rank=2, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "a": jnp.asarray(rng.normal(size=(rank, inp)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=(out, rank)), jnp.float32),
    }


def writes(path):
    return "writes"


GOOD = {"one": leaf(), "two": leaf(seed=1)}


@pytest.mark.parametrize(
    ("adapter", "options", "message"),
    [
        ({"one": {"a": leaf()["a"]}}, {}, "one is dict of a; expected a mapping with 'a' and 'b'"),
        ({"one": leaf() | {"b": jnp.ones((D, 3))}}, {}, r"one has a of shape \(2, 5\) and b of shape \(8, 3\)"),
        (GOOD | {"two": leaf() | {"a": jnp.full((2, 5), jnp.nan)}}, {}, "two has entries in a that are not finite"),
        (GOOD, {"scale": {"one": 1.0}}, "scale has no number for two"),
        (GOOD, {"roles": {"one": "writes"}}, r"roles does not know \['two'\]"),
        (GOOD, {"roles": {"one": "write", "two": "reads"}}, "the role of one is 'write'"),
        (GOOD, {"roles": lambda path: "none"}, "roles select no matrix that writes"),
        ({}, {}, "roles select no matrix"),
        (GOOD | {"two": leaf(out=6)}, {}, r"\[6, 8\] on the stream|are \[6, 8\]; name one"),
        (GOOD, {"width": 7}, "with width 7"),
        (GOOD, {"max_factors": D}, "max_factors is 8; expected 1 <= max_factors < 8"),
        (GOOD, {"max_factors": 0}, "max_factors is 0"),
        (GOOD, {"alpha": 0.0}, "alpha is 0.0"),
        (GOOD, {"ratio": -1.0}, "ratio -1.0"),
        (GOOD, {"num_samples": 0}, "num_samples 0"),
        (GOOD, {"weight": {"one": 1.0}}, "weight has no entry for two"),
        (GOOD, {"weight": {"one": 1.0, "two": jnp.ones(3)}}, r"weight for two has shape \(3,\)"),
        (GOOD, {"base": {"w": jnp.full((D, 3), jnp.inf)}}, "base weight w holds entries that are not finite"),
        (
            GOOD,
            {"base": {"layers": [{"down": jnp.ones((D, 3))}]}},
            r"base holds list at layers; .*base_weights\(params\)",
        ),
        (GOOD, {"base": {"w": jnp.ones((3, D + 1))}}, "base has w, none of which writes into or reads from a stream"),
        (GOOD, {"base": {}}, "base has no entries"),
        (GOOD, {"activations": jnp.ones((4, D + 1))}, r"activations has shape \(4, 9\)"),
        (GOOD, {"activations": jnp.ones((1, D))}, "at least two states"),
        (GOOD, {"activations": []}, "activations is empty"),
        (GOOD, {"activations": jnp.full((4, D), jnp.nan)}, "activations holds entries that are not finite"),
        (GOOD, {"reference": {"one": leaf(out=6)}}, "with width 8"),
        ({"one": {"a": 1e30 * leaf()["a"], "b": 1e30 * leaf()["b"]}}, {}, "overflows"),
    ],
)
def test_bad_input_is_named(adapter, options, message):
    with pytest.raises(ValueError, match=message):
        identify_factors(adapter, **{"roles": writes} | options)


def test_leaves_must_be_floating_point():
    with pytest.raises(TypeError, match="one/a has dtype int32"):
        identify_factors({"one": {"a": jnp.ones((2, 5), int), "b": jnp.ones((D, 2))}}, roles=writes)


def test_an_adapter_read_from_a_file_is_told_from_its_factors_without_type_checks(tmp_path, run_python):
    snippet = f"""
import numpy as np
from jaxspec.lora import LoraConfig, identify_factors, load_peft, merge, save_peft
leaf = {{"a": np.ones((2, 5), np.float32), "b": np.ones((8, 2), np.float32)}}
save_peft("{tmp_path}", {{"mlp.down_proj": leaf}}, LoraConfig(rank=2, alpha=8.0))
read = load_peft("{tmp_path}")
for call in (
    lambda: identify_factors(read),
    lambda: identify_factors(read.factors, reference=read),
    lambda: identify_factors(read.factors, reference=[read]),
    lambda: merge({{"mlp": {{"down_proj": np.ones((5, 8))}}}}, read),
):
    try:
        call()
    except TypeError as error:
        print("pass its .factors, with scale=its .scales" in str(error))
"""
    assert run_python(snippet).stdout.split() == ["True"] * 4


def test_a_base_without_writers_is_noted():
    report = identify_factors(
        GOOD, roles={"one": "writes", "two": "writes", "r": "reads"}, base={"r": jnp.ones((3, D))}
    )
    assert report.content_w is None
    assert report.content_r is not None
    assert "no matrix that writes with width 8" in report.notes[0]


def test_unknown_paths_may_have_a_default_role_or_another_width():
    report = identify_factors(GOOD | {"small": leaf(out=3, inp=2)}, roles={"one": "writes", "two": "writes"})
    assert set(report.per_leaf_alignment) == {"one", "two"}
    report = identify_factors(GOOD, roles={"one": "writes"}, default_role="none")
    assert set(report.per_leaf_alignment) == {"one"}
    assert "one matrix only" in report.notes[0]
    np.testing.assert_array_equal(report.pvalues, 1)
    assert int(report.n_factors) == 0


def test_a_zero_adapter_gives_an_empty_report():
    zero = {path: {"a": each["a"], "b": 0 * each["b"]} for path, each in GOOD.items()}
    for engine in ("gram", "subspace"):
        report = identify_factors(zero, roles=writes, engine=engine, base={"one": jnp.ones((D, 3))}, per_layer=True)
        assert report.factors.shape == (D, 0)
        for value in (report.directions, report.strengths, report.share, report.alignment, report.content_w.value):
            np.testing.assert_array_equal(value, 0)
        np.testing.assert_array_equal(report.pvalues, 1)
        assert not bool(report.pre_existing.any())
        assert "zero" in report.notes[0]


def test_dora_is_noted():
    adapter = GOOD | {"one": leaf() | {"magnitude": jnp.ones(D)}}
    assert any("DoRA" in note for note in identify_factors(adapter, roles=writes).notes)


def test_square_matrices_go_by_their_role():
    square = {"q": leaf(inp=D), "o": leaf(inp=D, seed=1), "w": leaf(inp=D, seed=2)}
    report = identify_factors(square, roles={"q": "reads", "o": "writes", "w": "both"})
    assert set(report.per_leaf_alignment) == {"o", "w"}
    report = identify_factors(square, roles={"q": "reads", "o": "writes", "w": "both"}, side="reads")
    assert set(report.per_leaf_alignment) == {"q", "w"}

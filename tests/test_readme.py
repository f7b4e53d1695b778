"""The README's examples run as they stand, one after the other."""

import re
from pathlib import Path

import jax
import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
LOOP = "range(300)"


@pytest.fixture(scope="module")
def namespace():
    """What the examples leave behind; the training loop is cut to two steps."""
    swap, *examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert LOOP in examples[0]
    names = {}
    for number, code in enumerate([examples[0].replace(LOOP, "range(2)"), swap, *examples[1:]]):
        exec(compile(code, f"README example {number}", "exec"), names)
    return names


def test_the_training_loop_moves_every_parameter(namespace):
    start = namespace["init"](jax.random.key(0))
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()) > 0, start, namespace["params"])
    assert all(jax.tree.leaves(moved))


def test_the_adapter_of_the_example_relies_on_nothing_and_comes_back(namespace):
    share = namespace["lora"].reliance(namespace["adapter"], namespace["persona"])["down"].share
    assert float(share) < 1e-6
    assert float(namespace["misfit"](namespace["adapter"])) > 0
    direct = namespace["lora"].merge(namespace["frozen"], namespace["adapter"], namespace["config"].scaling)
    assert (direct["down"] == namespace["merged"]["down"]).all()
    assert (direct["down"] != namespace["frozen"]["down"]).any()


def test_the_optimum_of_the_last_example_is_certified(namespace):
    gap = namespace["duality_gap"](
        namespace["result"], namespace["holes"], lam=namespace["lam"], regularizer=namespace["terms"]
    )
    assert namespace["result"].info.converged
    assert abs(float(gap.relative)) < 1e-4


def test_the_memories_of_the_example_are_certified(namespace):
    held, best, narrow = (namespace[name] for name in ("held", "best", "narrow"))
    assert ((held.high - held.low == 1) | (held.undecided > 0)).all()
    assert 0 < float(narrow.margin) < float(best.upper)
    assert bool(best.converged)

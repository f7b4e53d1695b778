"""The front doors of the library under random fire: tables of any scale and structure, with a bad entry anywhere.

Finite data give finite answers. A NaN or an infinity is refused by name or comes out as one of them: an answer without
them means that it does not depend on that entry.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxspec.completion import complete_tensor, game, make_groups, panel_effects, soft_impute
from jaxspec.linalg import (
    polar,
    schatten_direction,
    schatten_norm,
    singular_values,
    smoothed_nuclear_norm,
    smoothed_polar,
    spectral_power,
    top_svd,
)
from jaxspec.lora import identify_factors
from jaxspec.memory import Associations, check_feasible, hebbian, max_margin
from jaxspec.optim import freon, kaon, muon
from jaxspec.peeled import LayerPeeledProblem, circulant_defect, solve_logits
from jaxspec.prox import (
    lmo_schatten,
    project_nuclear_ball,
    project_spectral_ball,
    schatten_threshold,
    svt,
    tubal_svt,
)
from jaxspec.prox.tubal import tubal_norm

ROWS, COLUMNS = 6, 8
SEEN = np.add.outer(np.arange(ROWS), np.arange(COLUMNS)) % 4 > 0
TREATED = np.add.outer(np.arange(ROWS), 3 * np.arange(COLUMNS)) % 5 < 2
GROUPS = make_groups([[0, 1, 2], [2, 3, 4, 5]], ROWS)
OPTIMISERS = {"muon": muon(0.1), "freon": freon(0.1), "kaon": kaon(0.1, jax.random.key(0))}


def lam(x):
    x = np.asarray(x)
    size = np.abs(x[np.isfinite(x)]).max(initial=0)
    return 0.1 * (size if size > 0 else 1)


def updated(name, x):
    optimiser = OPTIMISERS[name]
    params = {"w": jnp.ones_like(x)}
    return optimiser.update({"w": jnp.asarray(x)}, optimiser.init(params), params)[0]


def softmax(x):
    x = np.asarray(x)
    with np.errstate(all="ignore"):
        columns = np.exp(x - x.max(axis=0))
        return columns / columns.sum(axis=0)


def memories(x):
    return Associations(jnp.asarray(x[:3]), jnp.asarray(x[3:]))


# Each takes a (6, 8) table in float32 and gives the arrays that hold its answer.
DOORS = {
    "singular_values": lambda x: singular_values(x),
    "schatten_norm": lambda x: schatten_norm(x, 4.0),
    "polar": lambda x: polar(x),
    "spectral_power": lambda x: spectral_power(x, 0.25, eps=1e-3),
    "top_svd": lambda x: top_svd(x, 2)[:3],
    "svt": lambda x: svt(x, lam(x)),
    "project_spectral_ball": lambda x: project_spectral_ball(x, lam(x)),
    "project_nuclear_ball": lambda x: project_nuclear_ball(x, lam(x)),
    "schatten_direction": lambda x: schatten_direction(x, 3.0),
    "smoothed_polar": lambda x: smoothed_polar(x, lam(x)),
    "smoothed_nuclear_norm": lambda x: smoothed_nuclear_norm(x, lam(x)),
    "svt_and_norm": lambda x: svt(x, lam(x), return_norm=True),
    "schatten_threshold": lambda x: schatten_threshold(x, lam(x), 0.5),
    "lmo_schatten": lambda x: lmo_schatten(x, 1.0, 3.0),
    "tubal_svt": lambda x: tubal_svt(x.reshape(6, 4, 2), lam(x)),
    "tubal_norm": lambda x: tubal_norm(x.reshape(6, 4, 2)),
    "soft_impute": lambda x: soft_impute(x, SEEN, lam(x), max_iter=50).M,
    "game": lambda x: game(x, SEEN, GROUPS, lam(x), max_iter=50).M,
    "complete_tensor": lambda x: (
        complete_tensor(x.reshape(6, 4, 2), SEEN.reshape(6, 4, 2), max_iter=50, history=False).tensor
    ),
    "panel_effects": lambda x: panel_effects(x, TREATED, rank=1, refine=2).fit.tau,
    "check_feasible": lambda x: check_feasible(memories(x)).W,
    "max_margin": lambda x: max_margin(memories(x)).W,
    "hebbian": lambda x: hebbian(memories(x)._replace(y=x[3:] / lam(x))),  # in the units of keys times values
    "solve_logits": lambda x: solve_logits(LayerPeeledProblem(softmax(x)), max_iter=50).logits,
    "circulant_defect": lambda x: circulant_defect(jnp.asarray(x[:, :6])),
    "identify_factors": lambda x: identify_factors(
        {"mlp.down": {"a": jnp.asarray(x[:2]), "b": jnp.asarray(x[2:].T)}}, num_samples=19
    )[:3],
    **{name: lambda x, name=name: updated(name, x) for name in OPTIMISERS},
}
# Where an entry is not looked at: not observed, or outside of what the door takes.
BLIND = dict.fromkeys(("soft_impute", "game", "complete_tensor"), ~SEEN)
BLIND["circulant_defect"] = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) % COLUMNS >= 6


@st.composite
def tables(draw):
    """Tables of one shape, so that each door compiles once: any scale, low rank, repeated and zero rows and columns."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rank = draw(st.integers(0, ROWS))
    x = rng.standard_normal((ROWS, rank)) @ rng.standard_normal((rank, COLUMNS))
    kind = draw(
        st.sampled_from(["plain", "zero row", "equal rows", "zero column", "integers", "one large", "tiny noise"])
    )
    if kind == "zero row":
        x[draw(st.integers(0, ROWS - 1))] = 0
    elif kind == "equal rows":
        x[1:] = x[:1]
    elif kind == "zero column":
        x[:, draw(st.integers(0, COLUMNS - 1))] = 0
    elif kind == "integers":
        x = np.round(x)
    elif kind == "one large":
        x[draw(st.integers(0, ROWS - 1)), draw(st.integers(0, COLUMNS - 1))] = 1e6
    elif kind == "tiny noise":
        x = x + 1e-7 * rng.standard_normal(x.shape)
    return (x * 10.0 ** draw(st.integers(-20, 20))).astype(np.float32)


def answer(door, x):
    """The arrays of the answer, or None where the data were refused by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return [np.asarray(leaf) for leaf in jax.tree.leaves(DOORS[door](jnp.asarray(x)))]
        except ValueError:
            return None


@pytest.mark.parametrize("door", DOORS)
@given(x=tables())
def test_finite_data_give_finite_answers(door, x):
    found = answer(door, x)
    if found is not None:
        assert all(np.isfinite(leaf).all() for leaf in found)


@pytest.mark.parametrize("door", DOORS)
@given(
    x=tables(), row=st.integers(0, ROWS - 1), column=st.integers(0, COLUMNS - 1), bad=st.sampled_from([np.nan, np.inf])
)
def test_a_bad_entry_is_refused_or_seen_in_the_answer(door, x, row, column, bad):
    x[row, column] = bad
    found = answer(door, x)
    if found is None:
        return
    if BLIND.get(door, np.zeros((ROWS, COLUMNS), bool))[row, column]:
        assert all(np.isfinite(leaf).all() for leaf in found)
    else:
        assert not all(np.isfinite(leaf).all() for leaf in found)

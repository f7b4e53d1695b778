"""What a caller is told without runtime type checks, as installed: each snippet runs in its own process, once."""

import json

import pytest

SNIPPET = """
import json, sys, warnings
import jax, numpy as np, pandas as pd
from jaxspec.completion import *
from jaxspec.completion.groups import lambda_max

rng = np.random.default_rng(0)
Y = rng.standard_normal((6, 4))
groups = make_groups([range(3), range(3, 6)], 6)
key = jax.random.key(0)
choice = cv_lambda(SoftImpute(), Y, None, [1.0, 0.5], key)
calls = {
    "list of rows": lambda: game(Y, None, [range(3), range(3, 6)], 1.0),
    "layout": lambda: game(Y, None, Game(groups).groups, 1.0),
    "no groups": lambda: game(Y, lam=1.0),
    "frame": lambda: Game(pd.DataFrame({"a": list("xxyyzz")})),
    "lambda_max": lambda: lambda_max(Y, None, [range(6)]),
    "group_errors": lambda: group_errors(Y, Y, [range(6)]),
    "choose_groups": lambda: choose_groups(Y, key=key),
    "labels": lambda: make_groups(np.array(list("xxyyzz")), 6),
    "cv key": lambda: cv_lambda(SoftImpute(), Y, None, None, 0),
    "no key": lambda: cv_lambda(SoftImpute(), Y),
    "choose_lam key": lambda: choose_lam(Y, key=0),
    "tmac key": lambda: tmac(Y, ranks=(1, 1), key=0),
    "no ranks": lambda: tmac(Y),
    "no lam": lambda: soft_impute(Y),
    "no lams": lambda: paired_hold_out(SoftImpute(), SoftImpute(), Y, key=key),
    "tensor choice": lambda: complete_tensor(Y, lam=choice),
    "table choice": lambda: soft_impute(Y, lam=choice),
}
said = {}
for name, call in calls.items():
    try:
        call()
    except Exception as error:
        said[name] = [type(error).__name__, str(error)]
Y[1] = np.nan
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    soft_impute(Y, lam=1.0)
    cv_lambda(SoftImpute(), Y, lams=[4.0, 2.0], key=key)
    game(Y, groups=groups, lam=1.0)
said["warnings"] = [[str(w.message), w.filename] for w in caught]
said["keywords"] = float(abs(soft_impute(Y, lam=1.0).M - soft_impute(Y, None, 1.0).M).max())
print(json.dumps(said))
"""

BUILD = "; expected Groups, which make_groups(groups, n) builds from rows or labels"
KEY = "; expected one typed key, for example jax.random.key(0)"
EXPECTED = {
    "list of rows": "groups is a list" + BUILD,
    "layout": "groups is a Layout" + BUILD,
    "no groups": "groups is None" + BUILD,
    "frame": "groups is a DataFrame" + BUILD,
    "lambda_max": "groups is a list" + BUILD,
    "group_errors": "groups is a list" + BUILD,
    "choose_groups": "groups is None" + BUILD,
    "labels": "groups[0] has dtype <U1; expected indices of rows; labels belong into a pandas DataFrame or Series",
    "cv key": "key is 0" + KEY,
    "no key": "key is None" + KEY,
    "choose_lam key": "key is 0" + KEY,
    "tmac key": "key is 0" + KEY,
    "no ranks": "ranks is None; expected a value: it has no default",
    "no lam": "lam is None; expected a value: it has no default",
    "no lams": "lams is None; expected a value: it has no default",
    "tensor choice": "lam is a LambdaChoice; expected a number: give its field lam",
    "table choice": "lam is a LambdaChoice; expected a number: give its field lam",
}


@pytest.fixture(scope="module")
def said(run_python):
    return json.loads(run_python(SNIPPET).stdout)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_wrong_argument_is_a_type_error_that_says_what_to_give(said, name):
    assert said[name] == ["TypeError", EXPECTED[name]]


def test_an_empty_row_is_called_a_row_and_the_warning_points_at_the_callers_line(said):
    message = "Y has rows without an observed entry, at [1]: they are completed by zeros"
    assert said["warnings"] == [[message, "<string>"]] * 3


def test_weights_may_be_left_out_by_name(said):
    assert said["keywords"] == 0

"""What every part of every paper's experiment must satisfy.

The test module of a paper imports these tests, so that they run there, and defines what they ask for: the fixture
``part``, a module and its result, made by `part_fixture`; ``LEAST_CLAIMS``, how many claims it makes; and
``OTHER_IN_FULL``, the tuples of its Config that are not lists of cases.
"""

import contextlib
import dataclasses
import importlib
import inspect

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.runner.contract import Claim
from experiments.runner.progress import Silent


def part_fixture(paper, small, around=lambda name, module: contextlib.nullcontext()):
    """The parts of ``experiments.paper`` at the sizes of ``small``, each run once inside ``around(name, module)``."""

    @pytest.fixture(scope="module", params=small)
    def part(request):
        module = importlib.import_module(f"experiments.{paper}.{request.param}")
        config = dataclasses.replace(module.PRESETS["quick"], **small[request.param])
        with around(request.param, module):
            return module, module.run(config, Silent())

    return part


def test_every_field_of_the_result_is_documented_and_an_array(part):
    module, result = part
    for name, value in result._asdict().items():
        assert f"{name}:" in inspect.getdoc(module.Result)
        assert np.asarray(value).dtype.kind in "biufU"


def test_claims_are_measured_with_a_source(part, request):
    module, result = part
    claims = module.claims(result)
    assert len(claims) >= request.module.LEAST_CLAIMS
    assert all(isinstance(claim, Claim) and claim.source and claim.measured is not None for claim in claims)


def test_measured_numbers_are_finite(part):
    module, result = part
    numbers = [claim.measured for claim in module.claims(result) if not isinstance(claim.measured, str)]
    assert np.isfinite(numbers).all()


def test_figures_are_drawn_from_the_result(part):
    module, result = part
    figures = module.figures(result)
    assert figures
    assert all(isinstance(figure, Figure) and figure.axes for figure in figures.values())


def test_the_full_preset_measures_at_least_what_the_quick_one_does(part, request):
    module, _ = part
    quick, full = module.PRESETS["quick"], module.PRESETS["full"]
    for field in dataclasses.fields(quick):
        value = getattr(quick, field.name)
        if isinstance(value, tuple) and field.name not in request.module.OTHER_IN_FULL:
            assert set(value) <= set(getattr(full, field.name))

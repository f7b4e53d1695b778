"""Level 2 needs float64; every test of this package runs in it."""

import jax
import pytest


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield

"""`python -m jaxspec`: the report of a sound installation, and what it says of a broken one."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import jaxspec
from jaxspec.__main__ import Check, main

OPTIONAL = "pandas matplotlib diffrax optimistix PIL safetensors skimage sklearn tensorly tyro tokenizers cvxpy pytest"
AS_A_COMMAND = f"""
import runpy, sys
sys.modules |= dict.fromkeys({OPTIONAL.split()!r})  # importing one of them fails, as where it is not installed
runpy.run_module("jaxspec", run_name="__main__")
"""
SOUND = Check("doubled", lambda x: 2 * x, lambda u, s, vt: 2 * (u * s) @ vt, 1e-6)


def raises(x):
    raise RuntimeError("no device\nand more")


@pytest.fixture(scope="module")
def report(run_python):
    return run_python(AS_A_COMMAND, check=False)


def test_a_sound_installation_passes_without_optional_packages(report):
    assert report.returncode == 0, report.stdout + report.stderr
    assert re.search(r"^7 passed, 0 failed$", report.stdout, re.MULTILINE)
    assert "FAILED" not in report.stdout


def test_the_report_names_versions_and_devices(report):
    first, second, third, *_ = report.stdout.splitlines()
    assert first == f"jaxspec {jaxspec.__version__}"
    assert re.fullmatch(r"python 3\.\d+\.\d+, jax \S+, jaxlib \S+, numpy \S+, optax \S+, equinox \S+", second)
    assert re.fullmatch(r"devices: \S.* \(cpu\)", third)


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (lambda x: 2.001 * x, r"error 5\.0e-04, at most 1e-06$"),
        (lambda x: x * jnp.nan, r"error nan, at most 1e-06$"),
        (lambda x: x[:, :1], r"error nan, at most 1e-06 \(shape \(24, 1\), not \(24, 16\)\)$"),
        (raises, r"error nan, at most 1e-06 \(RuntimeError: no device\)$"),
    ],
    ids=["wrong", "nan", "shape", "raises"],
)
def test_a_failed_check_is_named_and_ends_with_status_1(ours, said, capsys):
    status = main([SOUND._replace(name="broken", ours=ours), SOUND])
    lines = capsys.readouterr().out.splitlines()
    assert status == 1
    assert re.match(rf"FAILED  broken   {said}", lines[-3])
    assert re.match(r"ok      doubled  error \S+, at most 1e-06$", lines[-2])
    assert lines[-1] == "1 passed, 1 failed"


def test_the_formulas_are_held_against_a_decomposition_in_double_precision(capsys):
    exact = SOUND._replace(ours=lambda x: 2 * np.asarray(x, np.float64), tolerance=1e-7)
    assert main([exact]) == 0

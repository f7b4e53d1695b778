"""Set-up shared by all tests: runtime type checks, hypothesis, float64 and subprocesses with eight CPU devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from experiments.runner.compilation import QUICKEST, hurry

ROOT = Path(__file__).resolve().parents[1]

# Before NumPy and JAX load their LAPACK: its threads and XLA's spin against each other on few cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
hurry(QUICKEST)

# Before the first import of the library, or its annotations go unchecked. The hook lives as long as the process.
# The numeric tower lets an int stand for a float, as Python's own typing rules do and as callers do.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook(["jaxspec", "experiments"], CHECKER)


def pytest_configure(config):
    """Name the marker of tests that compare the last bits of programs compiled apart."""
    config.addinivalue_line(
        "markers", "as_users_compile: the bits depend on the compiler's settings, which are JAX's own"
    )


def pytest_collection_modifyitems(config, items):
    """Under quick compilation leave the marked tests to the process that `tests/test_as_users_compile.py` starts."""
    if QUICKEST in os.environ["XLA_FLAGS"]:
        marked = [item for item in items if item.get_closest_marker("as_users_compile")]
        items[:] = [item for item in items if item not in marked]
        config.hook.pytest_deselected(items=marked)


settings.register_profile("jaxspec", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("jaxspec")


@pytest.fixture(scope="module", autouse=True)
def few_memory_maps():
    """Forget compiled programs after a module when there are many."""
    yield
    from experiments.runner.workers import forget_programs

    forget_programs()


@pytest.fixture
def x64():
    """Double precision for one test."""
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def run_python():
    """Run a snippet in its own process: ``run_python("print(1)", devices=8, timeout=60.0).stdout``.

    Keyword arguments: `devices`, emulated CPU devices (1); `timeout`, seconds (120), after which the test fails;
    `check`, whether a non-zero exit fails the test with the snippet's stderr (True); `env`, more environment variables;
    `as_users_do`, compile with JAX's own settings, for what depends on the machine code (False).
    """

    def run(snippet, *arguments, devices=1, timeout=120.0, check=True, env=None, as_users_do=False):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {'' if as_users_do else QUICKEST}",
            **(env or {}),
        }
        environment["NPROC"] = str(os.cpu_count())  # as users have: threads that can wait for each other
        command = [sys.executable, "-c", snippet, *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.fail(f"not finished after {timeout} s:\n{snippet}")
        if check and done.returncode != 0:
            pytest.fail(f"exit status {done.returncode}:\n{snippet}\n{done.stderr}")
        return done

    return run

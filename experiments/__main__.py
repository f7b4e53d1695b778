"""Entry point of ``python -m experiments``."""

import gc
import os
import sys

# Before NumPy and JAX load their LAPACK: its threads and XLA's spin against each other on few cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A tenth of a compilation would be names of source lines and the garbage collector, which looks again and again at what
# tracing keeps.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
gc.set_threshold(200_000, 20, 100)


def main() -> int:
    """Start the command line, or say which extra is missing."""
    try:
        from experiments.runner.cli import main as command_line
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in {"experiments", "jaxspec"}:
            raise
        print(f"error: {error.name} is not installed: pip install 'jaxspec-lab[experiments]'", file=sys.stderr)
        return 2
    return command_line()


if __name__ == "__main__":
    sys.exit(main())

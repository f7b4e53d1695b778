"""Entry point of ``python -m experiments.benchmarks``."""

import sys


def main() -> int:
    """Start the command line, or say which extra is missing."""
    try:
        from experiments.benchmarks.cli import main as command_line
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in {"experiments", "jaxspec"}:
            raise
        print(f"error: {error.name} is not installed: pip install 'jaxspec-lab[bench]'", file=sys.stderr)
        return 2
    return command_line()


if __name__ == "__main__":
    sys.exit(main())

"""The command line: ``python -m jaxspec.peeled PATH --words weekdays months [--json F] [--figure F]``."""

import argparse
import sys
from collections.abc import Sequence

from jaxspec.peeled.report import SymmetryReport, symmetry_report
from jaxspec.peeled.vocabulary import LISTS

OK, BAD_INPUT = 0, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Reports on a checkpoint.

    Args:
        arguments: command-line words; the process's own by default.

    Returns:
        Exit status: 0, or 2 for input that cannot be used, said in one line.
    """
    options = _parser().parse_args(arguments)
    try:
        lists = {words if words in LISTS else f"list {i + 1}": _words(words) for i, words in enumerate(options.words)}
        report = symmetry_report(
            options.path,
            lists,
            tokenizer=options.tokenizer,
            tensor=options.tensor,
            order=options.order,
            center=options.center,
            controls=options.controls,
            multi_token=options.multi_token,
        )
        if options.json is not None:
            report.to_json(options.json)
        if options.figure is not None:
            report.plot(options.figure)
    except (OSError, ValueError, KeyError, IndexError, ImportError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return BAD_INPUT
    print(_text(report))
    return OK


def _words(words: str) -> str | list[str | int]:
    if words in LISTS:
        return words
    if "," not in words:
        raise ValueError(f"--words has {words!r}; expected one of {tuple(LISTS)}, or words with commas between")
    return [int(word) if word.isdecimal() else word for word in words.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxspec.peeled", description=symmetry_report.__doc__.split("\n")[0]
    )
    parser.add_argument("path", help="safetensors file, its sharded index, or the folder of either")
    parser.add_argument(
        "--words",
        nargs="+",
        default=["weekdays"],
        metavar="LIST",
        help=f"{', '.join(LISTS)}, or words (or rows) with commas between, in their cyclic order (default: weekdays)",
    )
    parser.add_argument("--tokenizer", metavar="FILE", help="tokenizer.json, or text with a token a line")
    parser.add_argument("--tensor", metavar="NAME", help="matrix to look at (default: the output embedding)")
    parser.add_argument("--order", choices=("given", "discover"), default="given")
    parser.add_argument("--center", choices=("group", "vocab", "none"), default="group")
    parser.add_argument("--controls", type=int, default=200, metavar="N", help="random token sets (default: 200)")
    parser.add_argument("--multi-token", choices=("error", "mean"), default="error")
    parser.add_argument("--json", metavar="FILE", help="write the report")
    parser.add_argument("--figure", metavar="FILE", help="write a figure")
    return parser


def _text(report: SymmetryReport) -> str:
    lines = [
        f"{report.tensor} {report.shape} {report.dtype}{' (tied)' if report.tied else ''}, center: {report.center}"
    ]
    for concept in report.concepts:
        score, r2, simplex = concept.harmonic, concept.circulant_r2, concept.simplex
        lines += [
            f"{concept.name}: {' '.join(concept.words)}",
            f"  first harmonic  {score.value:8.3f}  p {score.p_value:.3g} (adjusted {concept.adjusted_p_value:.3g}; "
            f"random tokens {score.control_p_value:.3g})  95% {score.low:.3f} to {score.high:.3f}",
            f"  circulant share {r2.value:8.3f}  p {r2.p_value:.3g} (random tokens {r2.control_p_value:.3g})  "
            f"95% {r2.low:.3f} to {r2.high:.3f}",
            f"  simplex defect  {simplex.defect:8.3f}  Gaussian rows {simplex.gaussian_mean:.3f}, nearer "
            f"{simplex.gaussian_p_value:.3g}; random tokens nearer {simplex.control_p_value:.3g}",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

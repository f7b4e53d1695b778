"""Runs one experiment, or finds it done, and evaluates its claims and figures from what was saved."""

import dataclasses
import hashlib
import io
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from rich.console import Console

from experiments.runner import discover, measure, progress, store, style
from experiments.runner.contract import Claim, RunnerError

LARGEST_SVG = 600_000  # bytes; a figure of many points or pixels is smaller, and quicker to show, as PNG

CSS_PIXELS_PER_INCH = 96


class Drawing(NamedTuple):
    """A figure as a file.

    Attributes:
        caption: The experiment's caption.
        name: File name; its suffix is the format.
        contents: The file.
        width: Width at which its letters have their own size, CSS pixels.
    """

    caption: str
    name: str
    contents: bytes
    width: int


class Evaluated(NamedTuple):
    """A saved result with what its experiment says about it now.

    Attributes:
        part: The experiment.
        preset: The preset it started from.
        meta: Config, versions, device, cost.
        claims: Claims, evaluated on the saved arrays.
        drawings: Figures, drawn from the saved arrays.
        computed: Whether this call computed it.
    """

    part: discover.Part
    preset: str
    meta: dict[str, Any]
    claims: list[Claim]
    drawings: list[Drawing]
    computed: bool


def run(
    part: discover.Part,
    preset: str,
    config: Any,
    out: Path,
    console: Console,
    *,
    force: bool = False,
    label: str = "",
) -> Evaluated:
    """Compute an experiment unless the same numbers and the same sources have been computed, then evaluate it.

    Args:
        part: The experiment.
        preset: Name of the preset `config` started from; names the folder.
        config: Its configuration.
        out: Results folder.
        console: Where progress goes.
        force: Compute in any case.
        label: Begins every line of progress in a log that several experiments share.

    Returns:
        The evaluated result.

    Raises:
        RunnerError: The results folder cannot be written, or the experiment breaks its contract.
    """
    module = discover.load(part)
    folder = out / part.folder / preset
    identity = {"config": store.to_json(config), "fingerprint": discover.fingerprint(part)}
    if not force and is_finished(folder, identity):
        return evaluate(part, preset, module, folder)
    store.prepare(folder.parent)
    with progress.live(console, label) as live, measure.cost() as measured:
        result = module.run(config, live)
        arrays = store.to_arrays(result)  # inside: copying off the device waits for the computation
    differs = _differences(config, module.PRESETS[preset])
    meta = {"name": part.name, "preset": preset, "seed": config.seed, **identity, "changed": differs, **measured}
    store.save(folder, arrays, meta | measure.environment())
    return evaluate(part, preset, module, folder)._replace(computed=True)


def is_finished(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether a folder holds a result of these numbers and these sources."""
    meta = store.read_meta(folder)
    return meta is not None and all(meta.get(key) == value for key, value in identity.items())


def evaluate(part: discover.Part, preset: str, module: ModuleType, folder: Path) -> Evaluated:
    """Check the claims and draw the figures of a saved result, and write both beside it.

    Figures that the same sources drew from the same arrays are read from there: drawing all takes half a minute.

    Raises:
        RunnerError: There is no result, or it does not fit the experiment any more.
    """
    saved = store.load(folder)
    if saved is None:
        raise RunnerError(f"{part.name} has no result for the preset {preset!r}")
    try:
        result = store.restore(saved, module.Result)
    except RunnerError as error:
        raise RunnerError(f"{part.name}, preset {preset}: {error}") from error
    claims = module.claims(result)
    wrong = [claim for claim in claims if not isinstance(claim, Claim)]
    if wrong:
        raise RunnerError(f"{part.name}: claims must return Claim objects, got {type(wrong[0]).__name__}")
    drawn_by = _drawn_by(part, folder)
    drawings = _kept(saved.meta, folder) if saved.meta.get("drawn_by") == drawn_by else []
    if not drawings:
        with style.context():
            drawings = [draw(place, *item) for place, item in enumerate(module.figures(result).items(), start=1)]
    captions, widths = ({drawing.name: drawing[n] for drawing in drawings} for n in (0, -1))
    meta = saved.meta | {"claims": [_record(claim) for claim in claims], "figures": captions}
    meta |= {"widths": widths, "drawn_by": drawn_by}
    store.annotate(folder, meta, {drawing.name: drawing.contents for drawing in drawings})
    return Evaluated(part, preset, meta, claims, drawings, computed=False)


def _drawn_by(part: discover.Part, folder: Path) -> str:
    """Hash of all that a figure depends on: sources, arrays, and what draws."""
    digest = hashlib.sha256(f"{discover.fingerprint(part)} {matplotlib.__version__}".encode())
    for path in (Path(__file__), Path(style.__file__), folder / store.ARRAYS):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _kept(meta: dict[str, Any], folder: Path) -> list[Drawing]:
    """The drawings beside a result; none where one is missing."""
    try:
        return [
            Drawing(caption, name, (folder / store.FIGURES / name).read_bytes(), meta["widths"][name])
            for name, caption in meta["figures"].items()
        ]
    except OSError:
        return []


def draw(place: int, caption: str, figure: Figure) -> Drawing:
    """Turn a figure into a file: SVG, or PNG when the SVG would be large.

    Args:
        place: Its place among the experiment's figures, which starts the file name.
        caption: Caption, which ends it.
        figure: A matplotlib figure.

    Returns:
        The file.

    Raises:
        RunnerError: Not a matplotlib figure.
    """
    if not isinstance(figure, Figure):
        raise RunnerError(f"the figure {caption!r} is a {type(figure).__name__}, not a matplotlib Figure")
    slug = re.sub(r"[^a-z0-9]+", "-", caption.lower()).strip("-")[:60].rstrip("-")
    stem = f"{place:02d}-{slug or 'figure'}"
    width = round(figure.get_figwidth() * CSS_PIXELS_PER_INCH)
    contents = _render(figure, "svg", metadata={"Date": None})
    if len(contents) <= LARGEST_SVG:
        return Drawing(caption, f"{stem}.svg", contents, width)
    return Drawing(caption, f"{stem}.png", _render(figure, "png"), width)


def _render(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _record(claim: Claim) -> dict[str, Any]:
    """A claim as JSON values; JSON has no NaN and no infinity, so those become text."""
    record = dataclasses.asdict(claim) | {"verdict": claim.verdict.value}
    if isinstance(claim.measured, float) and not math.isfinite(claim.measured):
        record["measured"] = claim.measured_text
    return record


def _differences(config: Any, preset: Any) -> list[str]:
    """Fields in which a configuration differs from its preset."""
    ours, theirs = store.to_json(config), store.to_json(preset)
    return [name for name, value in ours.items() if value != theirs[name]]

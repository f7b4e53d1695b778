"""Finds experiments by reading their source, and imports only the one that is asked for.

A module of the package is an experiment when it defines `Config`, `PRESETS`, `Result`, `run`, `claims` and `figures`. A
folder whose modules are experiments is a paper with parts. The package `runner`, `benchmarks` and names with a leading
underscore are never experiments.
"""

import ast
import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from experiments.runner.contract import INSTALL_HINT, RunnerError

NOT_EXPERIMENTS = {"runner", "benchmarks"}
REQUIRED = ("Config", "PRESETS", "Result", "run", "claims", "figures")
RESERVED_FLAGS = {"all", "preset", "out", "strict", "force", "help"}


@dataclasses.dataclass(frozen=True)
class Part:
    """One experiment: a module, known by its source until it is loaded.

    Attributes:
        name: Name on the command line, ``paper`` or ``paper.part``.
        module: Dotted name of the module.
        title: First line of the module's docstring.
        path: The module's file.
        sources: Files the result depends on, besides the library.
    """

    name: str
    module: str
    title: str
    path: Path
    sources: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        """Where results go, relative to the results folder."""
        return Path(*self.name.split("."))


@dataclasses.dataclass(frozen=True)
class Paper:
    """A paper with one part (a module) or several (a folder).

    Attributes:
        name: Name on the command line.
        title: First line of its docstring.
        note: The rest of the docstring: the citation.
        parts: The experiments.
    """

    name: str
    title: str
    note: str
    parts: tuple[Part, ...]


def discover(package: str = "experiments") -> list[Paper]:
    """Find the experiments of a package, in alphabetical order.

    Args:
        package: Dotted name of an importable package.

    Returns:
        The papers, each with its parts.

    Raises:
        RunnerError: A module defines some of an experiment's names and misses others, or a folder of experiments has
            no ``__init__.py``.
    """
    root = _root(package)
    helpers = tuple(path for path in sorted(root.glob("*.py")) if not _is_experiment(path))
    papers = []
    for path in sorted(root.iterdir()):
        name = path.stem
        if name in NOT_EXPERIMENTS or name.startswith((".", "_")):
            continue
        if path.suffix == ".py" and _is_experiment(path):
            title, note = _docstring(path)
            part = Part(name, f"{package}.{name}", title, path, (path, *helpers))
            papers.append(Paper(name, title, note, (part,)))
        elif (path / "__init__.py").is_file():
            parts = _parts(path, package, helpers)
            if parts:
                title, note = _docstring(path / "__init__.py")
                papers.append(Paper(name, title, note, parts))
        elif any(_is_experiment(module) for module in sorted(path.glob("*.py"))):
            raise RunnerError(f"{path} holds experiments and no __init__.py; its docstring is the title of the paper")
    return papers


def select(papers: list[Paper], names: list[str]) -> list[Part]:
    """Turn names on the command line into parts, each once, in the order given.

    Args:
        papers: What `discover` found.
        names: ``paper`` for all its parts, ``paper.part`` for one.

    Raises:
        RunnerError: No experiment has that name; close names are suggested.
    """
    known = {part.name: (part,) for paper in papers for part in paper.parts}
    known |= {paper.name: paper.parts for paper in papers}
    chosen: dict[str, Part] = {}
    for name in names:
        if name not in known:
            raise RunnerError(f"no experiment is called {name!r}{suggest(name, known)}")
        chosen |= {part.name: part for part in known[name]}
    return list(chosen.values())


def load(part: Part) -> ModuleType:
    """Import an experiment and check what can be checked of its contract.

    Raises:
        RunnerError: An optional package is missing, or the module breaks the contract.
    """
    try:
        module = importlib.import_module(part.module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in {"", "jaxspec", part.module.split(".")[0]}:
            raise
        raise RunnerError(f"{part.name} needs {missing}, which is not installed: {INSTALL_HINT}") from error
    config = module.Config
    if not dataclasses.is_dataclass(config) or not config.__dataclass_params__.frozen:
        raise RunnerError(f"{part.name}: Config must be a frozen dataclass")
    fields = {field.name for field in dataclasses.fields(config)}
    if "seed" not in fields:
        raise RunnerError(f"{part.name}: Config needs a field `seed: int`")
    if fields & RESERVED_FLAGS:
        raise RunnerError(f"{part.name}: Config may not use the names {sorted(fields & RESERVED_FLAGS)} of the runner")
    if not hasattr(module.Result, "_fields"):
        raise RunnerError(f"{part.name}: Result must be a NamedTuple")
    return module


def preset(part: Part, module: ModuleType, name: str):
    """The configuration of a preset.

    Raises:
        RunnerError: The experiment has no such preset; close names are suggested.
    """
    if name not in module.PRESETS:
        hint = suggest(name, module.PRESETS) or f"; it has {', '.join(module.PRESETS)}"
        raise RunnerError(f"{part.name} has no preset {name!r}{hint}")
    return module.PRESETS[name]


def fingerprint(part: Part) -> str:
    """Hash of the library's sources and of the experiment's own: when it changes, results are computed again."""
    spec = importlib.util.find_spec("jaxspec")
    library = Path(spec.origin).parent if spec and spec.origin else None
    files = sorted(library.rglob("*.py")) if library else []
    digest = hashlib.sha256()
    for path in [*files, *part.sources]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def suggest(name: str, known) -> str:
    """``; did you mean ...?`` with the closest names, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _root(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RunnerError(f"there is no package {package!r} to look for experiments in")
    return Path(next(iter(spec.submodule_search_locations)))


def _parts(folder: Path, package: str, helpers: tuple[Path, ...]) -> tuple[Part, ...]:
    """The experiments of a folder; everything in it that is not one of them is a source of all of them."""
    modules = [path for path in sorted(folder.glob("*.py")) if path.stem[0] != "_" and _is_experiment(path)]
    shared = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path not in modules
    ]
    return tuple(
        Part(
            f"{folder.name}.{path.stem}",
            f"{package}.{folder.name}.{path.stem}",
            _docstring(path)[0],
            path,
            (path, *shared, *helpers),
        )
        for path in modules
    )


def _is_experiment(path: Path) -> bool:
    """Whether a module defines an experiment's names; some but not all of the two that tell is an error."""
    try:
        names = set(_top_level_names(ast.parse(path.read_text())))
    except SyntaxError as error:
        raise RunnerError(f"{path.name}, line {error.lineno}: {error.msg}") from error
    if not {"PRESETS", "claims"} & names:
        return False
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise RunnerError(f"{path.name} looks like an experiment but does not define {', '.join(missing)}")
    return True


def _top_level_names(tree: ast.Module):
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)


def _docstring(path: Path) -> tuple[str, str]:
    """Title and rest of a module's docstring, read without importing it."""
    text = ast.get_docstring(ast.parse(path.read_text())) or path.stem.replace("_", " ")
    title, _, note = text.partition("\n")
    return title.strip().rstrip("."), note.strip()

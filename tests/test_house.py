"""The floors of the house, read from the source's own import statements.

Imports run downward only; domain packages do not import each other; the library never imports experiments;
singular-value factorisations are called in `jaxspec.linalg` alone; optional packages are imported inside functions;
products of the library name their precision, which recent accelerators otherwise cut to 10 bits.
"""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "checks": 0,
    "optional": 0,
    "chance": 0,
    "processes": 0,
    "tensor_files": 0,
    "linalg": 1,
    "prox": 2,
    "solvers": 3,
    "__main__": 5,
}
DOMAIN = 4
CORE = {
    "jax",
    "jaxlib",
    "numpy",
    "optax",
    "flax",
    "equinox",
    "chex",
    "jaxtyping",
    "jaxspec",
    "experiments",
} | sys.stdlib_module_names
FACTORISATIONS = {"svd", "svdvals", "eigh", "eigvalsh", "qr", "pinv", "matrix_rank", "cond"}
LINALG_HOMES = {"jax.numpy.linalg", "jax.lax.linalg", "jax.scipy.linalg"}
PRODUCTS = {f"jax.numpy.{name}" for name in ("matmul", "dot", "einsum", "tensordot", "vdot", "inner", "vecdot")}
HOST = "NumPy on the host"
UNNAMED_PRECISION = {  # module, or module:function or module:class -> why
    "jaxspec.__main__": HOST,
    "jaxspec.dmft.simulate:_LinearTask": "trains a finite network, at the user's precision",
    "jaxspec.dmft.simulate:_linear": "trains a finite network, at the user's precision",
    "jaxspec.dmft.simulate:_mlp": "trains a finite network, at the user's precision",
    "jaxspec.flow.moe:SmoothMoEBlock": "a network, at the user's precision",
    "jaxspec.linalg.coefficients.poles": HOST,
    "jaxspec.linalg.coefficients.recombination": HOST,
    "jaxspec.linalg.orthonormal:_of_numbers": HOST,
    "jaxspec.lora.adapters:AdaptedMatrix": "stands in for a weight of the user's network, at its precision",
    "jaxspec.memory.gordan:_proof": HOST,
    "jaxspec.memory.theory:kinematic_cost": HOST,
}


def package(dotted):
    """`jaxspec.linalg.polar` -> `linalg`; a module outside the library, or the library itself -> None."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "jaxspec" and len(parts) > 1 else None


def imports(tree, dotted, is_package):
    """Yield (line, absolute name) for every import, wherever it stands; relative ones resolved."""
    base = dotted.split(".") if is_package else dotted.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = base[: len(base) - node.level + 1] if node.level else []
            name = ".".join([*prefix, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{name}.{alias.name}") for alias in node.names)


def aliases(tree):
    """Local name -> absolute dotted name, from the import statements."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.split(".")[0]
                names[local] = alias.name if alias.asname else local
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def outside_functions(node):
    """Walk a tree without entering functions: what runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def floor_violations(tree, dotted, is_package):
    here = package(dotted)
    for line, name in imports(tree, dotted, is_package):
        if dotted.split(".")[0] == "jaxspec" and name.split(".")[0] == "experiments":
            yield f"{dotted}:{line}: the library imports experiments"
        there = package(name)
        if here is None or there is None or here == there:
            continue
        mine, theirs = FLOORS.get(here, DOMAIN), FLOORS.get(there, DOMAIN)
        if theirs > mine:
            yield f"{dotted}:{line}: {here} (floor {mine}) imports {there} (floor {theirs})"
        elif theirs == mine == DOMAIN:
            yield f"{dotted}:{line}: the domain {here} imports the domain {there}"


def factorisation_violations(tree, dotted):
    if package(dotted) == "linalg" or dotted.startswith("experiments.benchmarks"):
        return
    names = aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            root, _, rest = ast.unparse(node).partition(".")
            resolved = ".".join(filter(None, [names.get(root, root), rest]))
            home, _, function = resolved.rpartition(".")
            if home in LINALG_HOMES and function in FACTORISATIONS:
                yield f"{dotted}:{node.lineno}: {resolved} outside jaxspec.linalg"


def optional_violations(tree, dotted, is_package):
    if dotted.split(".")[0] != "jaxspec":
        return
    eager = ast.Module([node for node in outside_functions(tree) if isinstance(node, ast.Import | ast.ImportFrom)], [])
    for line, name in imports(eager, dotted, is_package):
        if name.split(".")[0] not in CORE:
            yield f"{dotted}:{line}: {name} is optional and imported on import"


def bare_products(tree):
    """Yield (top-level function or class, line, source) of every product that does not name its precision."""
    names = aliases(tree)
    for top in tree.body:
        named = {
            node.func
            for node in ast.walk(top)
            if isinstance(node, ast.Call) and any(keyword.arg == "precision" for keyword in node.keywords)
        }
        for node in ast.walk(top):
            if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
                yield getattr(top, "name", ""), node.lineno, ast.unparse(node)
            elif isinstance(node, ast.Attribute | ast.Name) and node not in named:
                root, _, rest = ast.unparse(node).partition(".")
                if ".".join(filter(None, [names.get(root, root), rest])) in PRODUCTS:
                    yield getattr(top, "name", ""), node.lineno, ast.unparse(node)


def precision_violations(tree, dotted):
    if dotted.split(".")[0] != "jaxspec" or dotted in UNNAMED_PRECISION:
        return
    for home, line, product in bare_products(tree):
        if f"{dotted}:{home}" not in UNNAMED_PRECISION:
            yield f"{dotted}:{line}: {product} without a precision; use linalg.normalisation.matmul or precision="


def violations(source, dotted, is_package=False):
    tree = ast.parse(source)
    return [
        *floor_violations(tree, dotted, is_package),
        *factorisation_violations(tree, dotted),
        *optional_violations(tree, dotted, is_package),
        *precision_violations(tree, dotted),
    ]


def modules():
    for top in ("jaxspec", "experiments"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            yield path, ".".join(parts[:-1] if is_package else parts), is_package


def test_the_house_keeps_its_floors():
    found = list(modules())
    problems = [line for path, dotted, is_package in found for line in violations(path.read_text(), dotted, is_package)]
    assert len(found) > 5, "the walk found no sources: the rules below it were not checked"
    assert problems == []


@pytest.mark.parametrize(
    ("dotted", "source"),
    [
        ("jaxspec.linalg.polar", "from jaxspec.prox import svt"),
        ("jaxspec.linalg.polar", "from .. import prox"),
        ("jaxspec.linalg.polar", "from jaxspec import solvers"),
        ("jaxspec.prox.svt", "def f():\n    import jaxspec.solvers.admm"),
        ("jaxspec.solvers.admm", "from ..completion import tensor"),
        ("jaxspec.optim.muon", "from jaxspec.flow.particles import step"),
        ("jaxspec.linalg.polar", "from experiments.runner import style"),
        ("jaxspec.optim.muon", "from jaxspec.__main__ import main"),
        ("jaxspec.optim.muon", "import jax.numpy as jnp\njnp.linalg.svd(x)"),
        ("jaxspec.optim.muon", "import jax\njax.numpy.linalg.eigh(x)"),
        ("jaxspec.prox.svt", "from jax import lax\nlax.linalg.qr(x)"),
        ("jaxspec.prox.svt", "from jax.numpy.linalg import svd as decompose\ndecompose(x)"),
        ("jaxspec.prox.svt", "from jax.numpy import linalg\nstep = linalg.eigvalsh"),
        ("jaxspec.prox.svt", "import jax.scipy as jsp\njsp.linalg.qr(x)"),
        ("experiments.panel", "import jax.numpy as jnp\njnp.linalg.svd(x)"),
        ("jaxspec.completion.panel", "import pandas as pd"),
        ("jaxspec.completion.panel", "try:\n    from sklearn import datasets\nexcept ImportError:\n    pass"),
        ("jaxspec.linalg.roots", "class Root:\n    import optimistix"),
        ("jaxspec.lora.nulls", "def f(x):\n    return x @ x.T"),
        ("jaxspec.lora.nulls", "y @= x"),
        ("jaxspec.lora.nulls", "import jax.numpy as jnp\ng = jnp.einsum('ij,j', f(x, precision=p), y)"),
        ("jaxspec.lora.nulls", "from jax.numpy import vdot as inner\nf = lambda x: inner(x, x)"),
        ("jaxspec.lora.nulls", "import jax\nf = jax.vmap(jax.numpy.dot)"),
        ("jaxspec.dmft.simulate", "def _mlp(w, x):\n    return w @ x\ndef _other(w, x):\n    return w @ x"),
    ],
)
def test_the_checker_catches(dotted, source):
    assert len(violations(source, dotted)) == 1


@pytest.mark.parametrize(
    ("dotted", "source"),
    [
        (
            "jaxspec.completion.tensor",
            "from jaxspec.solvers import consensus_admm\nfrom ..linalg import singular_values",
        ),
        ("jaxspec.prox.svt", "from . import schatten\nfrom .. import linalg"),
        ("jaxspec.__main__", "from jaxspec import completion, optim"),
        ("jaxspec.linalg.spectral", "import jax.numpy as jnp\njnp.linalg.svd(x)\njnp.linalg.eigh(x)"),
        ("jaxspec.prox.svt", "import jax.numpy as jnp\nfrom jaxspec import linalg\njnp.linalg.norm(x)\nlinalg.eigh(x)"),
        ("experiments.benchmarks.svd", "import jax.numpy as jnp\njnp.linalg.svd(x)"),
        ("experiments.panel", "import pandas as pd\nfrom jaxspec.completion import panel_effects"),
        (
            "jaxspec.completion.panel",
            "import dataclasses\nimport optax\ndef from_long(frame):\n    import pandas as pd",
        ),
        ("jaxspec.completion.panel", "import numpy as np\nnp.linalg.norm(x)"),
        ("jaxspec.completion.panel", "import numpy as np\nnp.einsum('ij,j', x, y)"),
        ("jaxspec.completion.panel", "import jax.numpy as jnp\njnp.einsum('ij,j', x, y, precision='highest')"),
        ("jaxspec.lora.adapters", "class AdaptedMatrix:\n    def __matmul__(self, x):\n        return self.w @ x"),
        ("experiments.panel", "x @ y"),
    ],
)
def test_the_checker_lets_pass(dotted, source):
    assert violations(source, dotted) == []


def test_every_exception_to_the_precision_is_needed():
    used = set()
    for path, dotted, _ in modules():
        for home, _, _ in bare_products(ast.parse(path.read_text())):
            used |= {dotted, f"{dotted}:{home}"}
    assert set(UNNAMED_PRECISION) <= used


def test_relative_imports_of_a_package_start_at_itself():
    assert violations("from .prox import svt", "jaxspec.linalg", is_package=True) == []
    assert violations("from ..prox import svt", "jaxspec.linalg", is_package=True) != []

"""Packages that only some functions of the library need."""

import importlib
from types import ModuleType


def require(name: str, caller: str, extra: str = "experiments") -> ModuleType:
    """A module of an optional package.

    Args:
        name: of the module, dotted.
        caller: name of the function that needs it, for the message.
        extra: of the distribution that brings it.

    Returns:
        The module.

    Raises:
        ImportError: if the package is not installed, naming the extra that brings it.

    Example:
        >>> require("no_such_package", "plot", "figures")
        Traceback (most recent call last):
        ImportError: plot needs no_such_package: pip install 'jaxspec-lab[figures]' (in a checkout: '.[figures]')
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        advice = f"pip install 'jaxspec-lab[{extra}]' (in a checkout: '.[{extra}]')"
        raise ImportError(f"{caller} needs {package}: {advice}") from error

"""Docstrings of this library as the documentation's parser knows them: ``Example:`` is its ``Examples:``."""

import re
from typing import Any

import griffe


class Sections(griffe.Extension):
    """Renames the section before it is parsed, so that it is shown as code and not as a quotation."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)

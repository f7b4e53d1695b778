"""The release's shape: one version, types that are shipped, a citation that can be read, a changelog in its form."""

import re
import tomllib
from pathlib import Path

import yaml

import jaxspec

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CFF_KEYS = {"cff-version", "message", "title", "abstract", "type", "authors", "license", "keywords"}


def test_the_version_is_written_once():
    assert re.fullmatch(r"\d+\.\d+\.\d+", jaxspec.__version__)
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"] == {"path": "jaxspec/__init__.py"}
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_has_what_its_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation.keys() == CFF_KEYS
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The jaxspec contributors"}]
    assert citation["license"] == PROJECT["project"]["license"]


def test_types_are_shipped():
    assert (ROOT / "jaxspec" / "py.typed").read_bytes() == b""
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["jaxspec"]}


def test_the_changelog_keeps_its_form():
    headings = re.findall(r"^#+ .*$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["# Changelog", "## [Unreleased]"]
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for heading in headings[2:]:
        assert heading.removeprefix("### ") in kinds or re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading)


def test_what_the_source_distribution_must_carry_exists():
    for name in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert (ROOT / name).exists(), name

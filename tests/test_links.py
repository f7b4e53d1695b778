"""No dead link in the Markdown, and every page and package has its place: read from the sources, nothing is built."""

import functools
import importlib
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
INLINE_CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
REFERENCE = re.compile(r"\[[^\]]*\]\[([\w.]+)\]")
SHOWN = re.compile(r"^::: ([\w.]+)((?:\n(?: .*)?)*)", re.MULTILINE)
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def name(page):
    return page.relative_to(ROOT).as_posix()


def prose(page):
    """A page without code, whose brackets are no links."""
    return INLINE_CODE.sub("code", FENCE.sub("", page.read_text()))


def slug(heading):
    """The anchor of an ASCII heading, as Python-Markdown and GitHub make it."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


@functools.cache
def anchors(page):
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)}


def dead_links(page, text):
    """Links of a page that lead nowhere, with the reason."""
    for target in LINK.findall(text):
        if re.match(r"(https?|mailto):", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.is_file():
            yield f"{target}: no such file"
        elif DOCS in page.parents and DOCS not in there.parents:
            yield f"{target}: outside of the site"
        elif anchor and anchor not in anchors(there):
            yield f"{target}: no such heading"


@functools.cache
def members(path):
    """Names of a module that the documentation shows: exported, or public and its own."""
    module = importlib.import_module(path)
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == path and key[0] != "_"]
    return set(getattr(module, "__all__", own))


@functools.cache
def documented():
    """Dotted names with an anchor on an API page, as `[text][name]` refers to them."""
    found = set()
    for page in sorted((DOCS / "api").glob("*.md")):
        for path, options in SHOWN.findall(page.read_text()):
            if "show_root_heading: true" in options:
                found.add(path)
                continue
            listed = re.search(r"members: \[(.*)\]", options)
            shown = set(listed[1].split(", ")) if listed else members(path)
            hidden = re.findall(r'"!(.*)"', options) or ["^_"]
            shown = {key for key in shown if not any(re.search(pattern, key) for pattern in hidden)}
            found |= {f"{path}.{key}" for key in shown if not submodule(f"{path}.{key}")}
    return found


def submodule(dotted):
    """Whether a name is (also) that of a module, which the page's generator then shows in its place."""
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def resolve(dotted):
    """The object of a dotted name; the longest prefix that is a module is imported."""
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        if submodule(".".join(parts[:cut])):
            return functools.reduce(getattr, parts[cut:], importlib.import_module(".".join(parts[:cut])))
    raise ImportError(dotted)


def packages():
    return sorted(
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "jaxspec").rglob("__init__.py")
        if path.parent.name not in {"jaxspec", "coefficients", "baselines"}
    )


def navigated(entries):
    for entry in entries:
        for target in entry.values():
            yield from navigated(target) if isinstance(target, list) else [target]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_link_of_a_page_is_dead(page):
    assert list(dead_links(page, prose(page))) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_reference_of_a_page_is_documented(page):
    references = REFERENCE.findall(FENCE.sub("", page.read_text()))
    assert [target for target in references if target not in documented()] == []


def test_there_are_links_and_references_to_check():
    assert sum(len(LINK.findall(prose(page))) for page in PAGES) > 40
    assert sum(len(REFERENCE.findall(page.read_text())) for page in PAGES) > 60


@pytest.mark.parametrize(
    "link",
    ["[a](nowhere.md)", "[a](index.md#no-such-heading)", "[a](#nor-this)", "[a](../pyproject.toml)", "[a](papers)"],
)
def test_a_dead_link_is_found(link):
    assert len(list(dead_links(DOCS / "index.md", link))) == 1


@pytest.mark.parametrize("link", ["[a](choose.md)", "[a](choose.md#i-train-a-network)", "[a](https://nowhere.invalid)"])
def test_a_live_link_passes(link):
    assert list(dead_links(DOCS / "index.md", link)) == []


def test_every_page_is_in_the_navigation_once():
    assert sorted(navigated(SITE["nav"])) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("package", packages())
def test_every_exported_name_of_a_package_is_documented(package):
    assert members(package), "a package without __all__"
    missing = []
    for key in members(package):
        target = resolve(f"{package}.{key}")
        known = {f"{package}.{key}", f"{package}.{key}.{key}", f"{package}.panel.{key}"}
        if not known & documented() and not hasattr(target, "__path__") and not hasattr(target, "__file__"):
            missing.append(key)
    assert missing == []


def test_what_is_documented_exists():
    for dotted in documented():
        assert resolve(dotted) is not None


def test_the_site_loads_nothing_from_elsewhere():
    assert SITE["theme"]["font"] is False
    assert SITE["plugins"][0] == "search"
    assert [next(iter(plugin)) for plugin in SITE["plugins"][1:]] == ["mkdocstrings"]
    assert not {"repo_url", "extra_css", "extra_javascript"} & SITE.keys()

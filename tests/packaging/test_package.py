"""The metadata of the package: its version, its public names, the versions it allows, its links."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import provider_trace_store
from hatch_build import with_links_for_an_index
from tests.support.paths import ROOT


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def requirements() -> list[Requirement]:
    extras: dict[str, list[str]] = project()["optional-dependencies"]
    return [
        Requirement(text)
        for text in (*project()["dependencies"], *(text for extra in extras.values() for text in extra))
    ]


def lower_bounds() -> dict[str, Version]:
    """Return what each requirement allows at the least, and for psycopg's wheel what psycopg itself does."""
    bounds: dict[str, Version] = {}
    for requirement in requirements():
        (version,) = [Version(specifier.version) for specifier in requirement.specifier if specifier.operator == ">="]
        for name in (requirement.name, *(f"{requirement.name}-{extra}" for extra in requirement.extras & {"binary"})):
            assert bounds.setdefault(canonicalize_name(name), version) == version
    return bounds


def test_the_lowest_versions_that_are_tested_are_the_lowest_that_are_allowed() -> None:
    lines = (ROOT / "tests" / "lowest.txt").read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): Version(version) for name, version in pairs}
    assert pins == lower_bounds()


def test_the_version_is_the_one_of_the_installed_distribution() -> None:
    assert importlib.metadata.version("provider_trace_store") == provider_trace_store.__version__


def test_every_public_name_exists_and_is_listed_once() -> None:
    names = provider_trace_store.__all__
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(provider_trace_store, name)] == []


def test_the_package_says_that_it_has_types() -> None:
    assert (Path(provider_trace_store.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "the `docs/a.md` and the code (`b.py`)"),
        ("https://host.example/repo/", "the [docs/a.md]({0}/docs/a.md) and [the code]({0}/b.py)"),
    ],
)
def test_readme_links_of_the_package_are_addresses_or_plain_names(source: str | None, expected: str) -> None:
    readme = (
        "the [docs/a.md](docs/a.md) and [the code](b.py), [there](https://a.example/x), [below](#b)\n```\n[a](b)\n```\n"
    )
    expected = expected.format("https://host.example/repo/blob/v1.0")
    kept = ", [there](https://a.example/x), [below](#b)\n```\n[a](b)\n```\n"
    assert with_links_for_an_index(readme, source, "v1.0") == expected + kept


def test_every_link_between_pages_leads_to_a_file() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    links = [
        (page, target) for page in pages for target in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text("utf-8"))
    ]
    assert len(pages) >= 10
    assert [(page.name, target) for page, target in links if not (page.parent / target).exists()] == []


def test_every_module_and_name_that_the_page_on_architecture_mentions_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    folders = "|".join(path.parent.name for path in (ROOT / "provider_trace_store").glob("*/__init__.py"))
    mentioned = set(re.findall(rf"`((?:{folders})/\w[\w.]*)`", page))
    assert len(mentioned) > 30
    for place in mentioned:
        module, *names = place.removesuffix(".py").split(".")
        found: Any = importlib.import_module(f"provider_trace_store.{module.replace('/', '.')}")
        for name in names:
            found = getattr(found, name)

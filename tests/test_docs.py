"""Docs that cannot lie: each target, verb and flag is documented, and each documented one exists."""

import ast
import re
import subprocess

import pytest

from benchmarks import house
from extract.__main__ import _parser as extract_parser
from heads.__main__ import _parser as heads_parser
from heads.menu import registry
from tests.support.album import ROOT

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def verbs(parser):
    """Map each verb of a parser to its sub-parser."""
    return next(a for a in parser._actions if hasattr(a, "choices") and isinstance(a.choices, dict)).choices


def flags(parser):
    """Every long flag of every verb."""
    return {o for verb in verbs(parser).values() for a in verb._actions for o in a.option_strings if o.startswith("--")}


def test_every_make_target_is_in_help_and_in_the_readme():
    """And `make help` names no other."""
    targets = set(re.search(r"\.PHONY: (.*)", MAKEFILE)[1].split()) - {"help"}
    told = set(
        re.findall(r"make ([a-z]+)", subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout)
    )
    assert told == targets
    assert set(re.findall(r"make ([a-z]+)", README)) - {"help"} == targets


def test_every_make_variable_is_in_the_readme():
    """DATA, MEDIA and the others; and what is listed is a flag."""
    lists = re.findall(r"^(?:INPUTS|PASS|TRAIN) +:= (.*)|\$\(call flags,(.*)", MAKEFILE, re.MULTILINE)
    listed = set(re.findall(r"(?<![(A-Z_])[A-Z_]{3,}", str(lists)))
    assert {f"--{name.lower().replace('_', '-')}" for name in listed} <= flags(extract_parser()) | flags(heads_parser())
    used = listed | set(re.findall(r"\$\(if \$\(([A-Z_]+)\)", MAKEFILE)) | {"GPU", "SWEEP", "ARGS"}
    assert {"DATA", "INPUT_SIZE", "SHARD", "PRIOR", "HEAD", "FORMATS", "MODEL"} <= used
    assert used <= set(re.findall(r"`([A-Z_]+)[=`]", README))


@pytest.mark.parametrize("package", ["extract", "heads"])
def test_every_verb_and_flag_is_in_the_readme(package):
    """The reference table lists what argparse knows."""
    parser = {"extract": extract_parser, "heads": heads_parser}[package]()
    for verb in verbs(parser):
        assert f"python -m {package} {verb}" in README, verb
    missing = {flag for flag in flags(parser) - {"--help"} if f"`{flag}" not in README}
    assert not missing


def test_every_head_is_in_the_readmes_menu():
    """With what it is and whether it exports."""
    menu = re.search(r"\| head \| what it is \| exports \|\n(.*?)\n\n", README, re.DOTALL)[1]
    names = [name for row in menu.splitlines() for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])]
    assert sorted(names) == sorted(registry.HEADS)


def test_every_flag_in_the_readme_exists():
    """A flag that was taken out must leave the page too."""
    known = flags(extract_parser()) | flags(heads_parser()) | {"--help", "--version"}
    assert set(re.findall(r"`(--[a-z-]+)", README)) <= known


def test_no_page_names_a_package_host_or_a_machine():
    """The product knows neither the place it was made in nor where packages come from."""
    text = README + (ROOT / "CHANGELOG.md").read_text() + MAKEFILE
    assert not re.search(r"pypi|(?<!\w)/(?:home|root|tmp|work)/", text, re.IGNORECASE)


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def test_the_page_of_the_layout_names_every_room_with_its_own_words():
    """The tree has each folder and file on the top level, and says of it what its docstring says."""
    tree, package, told = re.search(r"```\n(.*?)```", ARCHITECTURE, re.DOTALL)[1], "", {}
    for line in tree.splitlines():
        names, _, words = line.strip().partition("  ")
        package = package if line.startswith(" ") else names
        told |= {(package, name.strip()): words.strip() for name in names.split(",") if line.startswith(" ")}
    for name in ("extract", "heads"):
        inside = (path for path in (ROOT / name).iterdir() if not path.name.startswith("__pycache__"))
        rooms = {path.name + "/" * path.is_dir(): path for path in inside if path.name != "__init__.py"}
        assert {room for where, room in told if where == f"{name}/"} == rooms.keys()
        for room, path in rooms.items():
            doc = ast.get_docstring(ast.parse((path / "__init__.py" if path.is_dir() else path).read_text()))
            assert told[f"{name}/", room] in ("", doc.splitlines()[0])


def test_the_page_of_the_layout_names_what_is_there():
    """Each path in its text, and the picture of the imports as they are."""
    for path in re.findall(r"`(\w+/\w+)(?:\.py)?`", ARCHITECTURE):
        there = [ROOT, ROOT / "extract", ROOT / "heads"]
        assert any((folder / path).is_dir() or list(folder.glob(f"{path}.*")) for folder in there), path
    assert f"```mermaid\n{house.picture()}\n```" in ARCHITECTURE

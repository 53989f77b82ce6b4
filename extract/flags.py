"""Flags made from the fields of a dataclass: a new option is a new field, and README's word for it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from dataclasses import MISSING, Field, field, fields
from typing import Any


def option(
    about: str, default: Any = MISSING, *, flag: str = "", of: str = "", read: Callable[[Any], Any] = str, **how: Any
) -> Any:
    """Return a dataclass field that is a flag too.

    flag: its name, where it is not the field's. of: the field of Workspace that it belongs to: it is remembered while
    that stays the same. read: makes the value of what was recorded. how: more for `ArgumentParser.add_argument`.
    """
    return field(default=default, metadata={"flag": flag, "of": of, "read": read, "how": {"help": about, **how}})


def options(kind: type) -> list[Field[Any]]:
    """Return the fields of a dataclass that are flags."""
    return [each for each in fields(kind) if "flag" in each.metadata]


def add(parser: argparse.ArgumentParser, kind: type, *, only: Collection[str] = (), but: Collection[str] = ()) -> None:
    """Add the flags of a dataclass to a verb. only, but: names of fields. What is not given is None."""
    for each in options(kind):
        if each.name not in but and (not only or each.name in only):
            flag = each.metadata["flag"] or f"--{each.name.replace('_', '-')}"
            parser.add_argument(flag, dest=each.name, default=None, **each.metadata["how"])


def given(flags: argparse.Namespace, kind: type) -> dict[str, Any]:
    """Return the fields of a dataclass that flags give; an empty string, as make passes it, counts as not given."""
    found = {each.name: getattr(flags, each.name, None) for each in options(kind)}
    return {name: value for name, value in found.items() if value not in (None, "")}


def number(least: int) -> Callable[[str], int]:
    """Return an argparse type: a whole number of at least `least`."""

    def parse(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number >= {least}, got {text!r}")
        return int(text)

    return parse

"""Answers as a table for people, or as CSV or JSON for programs."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TextIO

FORMATS: Final = ("table", "csv", "json")
Columns = Sequence[tuple[str, str]]
"""(heading, path of keys with dots) of each column."""


def sortable(one: argparse.ArgumentParser) -> None:
    """Give a command that lists something its order; the installation knows which there are."""
    one.add_argument(
        "--sort",
        default="",
        metavar="FIELD,...",
        help="order; `--sort=-FIELD` descends; an unknown one is told",
    )


def rows(found: Iterable[Mapping[str, Any]], columns: Columns, how: str, *, empty: str) -> None:
    """Print objects. how: one of FORMATS; JSON has the whole objects, one a line. empty: said to people when
    there are none.
    """
    if how == "json":
        for one in found:
            print(json.dumps(one))
    elif how == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([heading for heading, _ in columns])
        writer.writerows([_text(_at(one, path)) for _, path in columns] for one in found)
    else:
        cells = [[_text(_at(one, path)) for _, path in columns] for one in found]
        print(table([heading for heading, _ in columns], cells) if cells else empty)


def one(found: Mapping[str, Any], how: str, pairs: Columns) -> None:
    """Print one object: these (heading, path) below each other, or all of it as JSON."""
    if how == "json":
        print(json.dumps(found, indent=1))
        return
    shown = [(heading, _text(_at(found, path))) for heading, path in pairs]
    width = max((len(heading) for heading, value in shown if value), default=0)
    for heading, value in shown:
        if value:
            print(f"{heading:<{width}}  {value}")


def table(headings: Sequence[str], cells: Sequence[Sequence[str]], file: TextIO | None = None) -> str:
    """Columns as wide as what is in them; the last is cut to the terminal's width, if there is one."""
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in (headings, *cells)]  # fmt: skip
    if (file or sys.stdout).isatty():
        wide = shutil.get_terminal_size().columns
        lines = [line if len(line) <= wide else line[: wide - 1] + "…" for line in lines]
    return "\n".join(lines)


def _at(found: Any, path: str) -> Any:
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)) and all(isinstance(one, (str, int)) for one in value):
        text = ", ".join(map(str, value))
    else:
        text = json.dumps(value) if isinstance(value, (dict, list, tuple)) else str(value)
    return harmless(text.replace("\n", " "))


def harmless(text: str) -> str:
    """The text without what would move a terminal's cursor: devices and people choose names and reasons."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


def fitted(text: str) -> str:
    """The text in lines that a terminal shows as one each, so that it can be drawn over; else as it is."""
    if not sys.stdout.isatty():
        return text
    wide = shutil.get_terminal_size().columns
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, wide) or [""])

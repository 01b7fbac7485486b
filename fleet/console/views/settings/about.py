"""Which version this is, and under which licences the packages are that it runs on."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from fleet.accounts.scopes import READ
from fleet.console.access import page

PRODUCT: Final = "tinyfleet"
MOST_CHARS: Final = 60
"""Some packages put the whole text of their licence where its name belongs."""
_CLASSIFIER: Final = "License :: OSI Approved :: "


@dataclass(frozen=True)
class Package:
    """An installed package. licence: as it says itself, "" when it does not."""

    name: str
    version: str
    licence: str
    summary: str


@lru_cache(maxsize=1)
def packages() -> tuple[Package, ...]:
    """What is installed beside us, by name; read once, an installation does not change under a process."""
    found: dict[str, Package] = {}
    for one in importlib.metadata.distributions():
        name = one.metadata["Name"] or ""
        if name and name.lower() != PRODUCT:
            summary = (one.metadata["Summary"] or "")[:160]
            found[name.lower()] = Package(name, one.version, licence_of(one.metadata), summary)
    return tuple(found[key] for key in sorted(found))


def licence_of(metadata: importlib.metadata.PackageMetadata) -> str:
    """SPDX expression, else the licence field when it is a name, else the classifiers."""
    if expression := metadata.get_all("License-Expression"):
        return str(expression[0])
    field = "".join(metadata.get_all("License") or []).strip()
    if field and "\n" not in field and len(field) <= MOST_CHARS and field != "UNKNOWN":
        return field
    approved = [
        line.removeprefix(_CLASSIFIER)
        for line in metadata.get_all("Classifier") or []
        if line.startswith(_CLASSIFIER)
    ]
    return ", ".join(approved)


def version() -> str:
    """Version of the installed product, `from source` when it runs from a folder."""
    try:
        return importlib.metadata.version(PRODUCT)
    except importlib.metadata.PackageNotFoundError:
        return "from source"


@require_safe
@page(*READ)
def about(request: HttpRequest) -> HttpResponse:
    """Version, programs, packages with their licences."""
    context = {
        "version": version(),
        "python": platform.python_version(),
        "packages": packages(),
        "unsaid": sum(not one.licence for one in packages()),
    }
    return render(request, "console/settings/about.html", context)

"""Find anything by the beginning of its id or name: a few rows of each kind, each by an index.

Prefixes and not parts of a word: among 100,000 devices a prefix is a range of an index, whatever is typed;
the device list looks for parts of an id.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from django.db.models import Q
from django.urls import reverse

from fleet.alerts.models import Alert, Rule
from fleet.console import alert_words
from fleet.console.states import label_of
from fleet.devices.models import Device, DeviceGroup
from ota.models import Manifest, MLModel, ModelVersion
from ota.rollout_lists import listed

MOST: Final = 8
MAX_CHARS: Final = 64
LEAST_HEX: Final = 4
_HEX: Final = re.compile(r"[0-9a-f]{4,32}")


@dataclass(frozen=True)
class Hit:
    """Something that was found. is_exact: what was typed is its whole id or name."""

    label: str
    sub: str
    url: str
    is_exact: bool


@dataclass(frozen=True)
class Kind:
    """Hits of a kind. is_more: there are further ones. all_url: where all of them are, "" for nowhere."""

    title: str
    hits: list[Hit]
    is_more: bool
    all_url: str = ""


def find(text: str, *, scopes: Iterable[str]) -> list[Kind]:
    """What begins with a text, by kind, at most MOST of each; only kinds that these scopes may read.

    text: as typed, at most MAX_CHARS of it count. Nothing for an empty one.
    """
    text = text.replace("\0", " ").strip()[:MAX_CHARS]
    if not text:
        return []
    known = frozenset(scopes)
    return [found for scope, look in _KINDS if scope in known and (found := look(text)).hits]


def only_exact(found: list[Kind]) -> Hit | None:
    """The one hit that is exactly what was typed; None when there is none, or several."""
    exact = [hit for kind in found for hit in kind.hits if hit.is_exact]
    return exact[0] if len(exact) == 1 else None


def _devices(text: str) -> Kind:
    prefix = text.lower()
    rows = list(Device.objects.filter(pk__startswith=prefix).order_by("pk")[: MOST + 1])
    hits = [
        Hit(
            row.pk,
            f"{row.device_class_id}, {_presence(row)}",
            reverse("console:device", args=[row.pk]),
            row.pk == prefix,
        )
        for row in rows[:MOST]
    ]
    return Kind("Devices", hits, len(rows) > MOST, f"{reverse('console:devices')}?q=id=={prefix}*")


def _presence(row: Device) -> str:
    return "retired" if row.retired_at else label_of("presence", row.presence).lower()


def _groups(text: str) -> Kind:
    rows = list(DeviceGroup.objects.filter(pk__startswith=text.lower())[: MOST + 1])
    hits = [
        Hit(
            row.pk,
            row.description or row.get_kind_display(),
            reverse("console:group", args=[row.pk]),
            row.pk == text.lower(),
        )
        for row in rows[:MOST]
    ]
    return Kind("Groups", hits, len(rows) > MOST, reverse("console:groups"))


def _models(text: str) -> Kind:
    rows = list(MLModel.objects.filter(pk__startswith=text.lower()).order_by("pk")[: MOST + 1])
    hits = [
        Hit(row.pk, row.description, reverse("console:model", args=[row.pk]), row.pk == text.lower())
        for row in rows[:MOST]
    ]
    return Kind("Models", hits, len(rows) > MOST, reverse("console:models"))


def _versions(text: str) -> Kind:
    """By version, by `model version` or `model/version`, and by the mid in topics and logs."""
    line, _, version = text.replace("/", " ").partition(" ")
    named = Q(model=line.lower(), version__startswith=version.strip()) if version.strip() else Q(pk__in=[])
    condition = named | Q(version__startswith=text)
    if len(text) >= 2 * LEAST_HEX and _HEX.fullmatch(text.lower()):
        of_mid = Manifest.objects.filter(mid__startswith=text.lower()[:16])
        condition |= Q(pk__in=list(of_mid.values_list("version", flat=True)[:MOST]))
    rows = list(ModelVersion.objects.filter(condition).order_by("-created_at")[: MOST + 1])
    whole = text.replace("/", " ").lower()
    hits = [
        Hit(
            str(row),
            label_of("version", row.state),
            reverse("console:version", args=[row.model_id, row.version]),
            f"{row.model_id} {row.version}".lower() == whole,
        )
        for row in rows[:MOST]
    ]
    return Kind("Versions", hits, len(rows) > MOST)


def _rollouts(text: str) -> Kind:
    rows = list(listed().filter(Q(name__istartswith=text) | _id_range(text)).order_by("-pk")[: MOST + 1])
    hits = [
        Hit(
            row.name,
            f"{label_of('rollout', row.state)}, {row.manifest.version}",
            reverse("console:rollout", args=[row.pk]),
            text.lower() in (row.name.lower(), str(row.pk)),
        )
        for row in rows[:MOST]
    ]
    return Kind("Rollouts", hits, len(rows) > MOST, reverse("console:rollouts"))


def _alerts(text: str) -> Kind:
    rules = list(Rule.objects.filter(pk__startswith=text.lower()).values_list("pk", flat=True)[:MOST])
    rows = list(Alert.objects.filter(Q(rule__in=rules) | _id_range(text)).order_by("-pk")[: MOST + 1])
    hits = [
        Hit(
            alert_words.label(row.kind),
            f"{label_of('alert', row.state)}, {row.device_id or row.scope_key}",
            reverse("console:alert", args=[row.pk]),
            text.lower() == str(row.pk),
        )
        for row in rows[:MOST]
    ]
    return Kind("Alerts", hits, len(rows) > MOST, reverse("console:alerts"))


def _id_range(text: str) -> Q:
    """Ids that begin so, as a range of the primary key; nothing for what is no beginning of one."""
    digits = text.lower().replace("-", "")
    if not _HEX.fullmatch(digits):
        return Q(pk__in=[])
    return Q(pk__gte=uuid.UUID(digits.ljust(32, "0")), pk__lte=uuid.UUID(digits.ljust(32, "f")))


_KINDS: Final[tuple[tuple[str, Callable[[str], Kind]], ...]] = (
    ("devices:read", _devices),
    ("devices:read", _groups),
    ("models:read", _models),
    ("models:read", _versions),
    ("rollouts:read", _rollouts),
    ("telemetry:read", _alerts),
)

"""Fields of the rollout form: times, sizes and windows as people write them, and the same text back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from django import forms
from django.forms.models import ModelChoiceIterator

from ota.models import Manifest, ModelAlias
from ota.windows import WEEKDAYS, Window

_UNITS: Final = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|min|m|h|d)?\s*")
_WINDOW = re.compile(
    r"(?:(?P<days>[a-z,-]+)\s+)?(?P<at>\d{1,2}:\d\d)\s+(?P<long>(?:\d+\s*(?:min|m|h)\s*)+)(?P<tz>\S+)?",
    re.ASCII,
)


class DurationField(forms.CharField):
    """Seconds from `90 s`, `10 min`, `1 h 30 min`, `7 d`; a bare number is seconds."""

    def clean(self, value: Any) -> Any:
        """Seconds as a float. Raises ValidationError for anything else."""
        text = super().clean(value).strip().lower()
        at, seconds = 0, 0.0
        while at < len(text):
            found = _PART.match(text, at)
            if not found:
                raise forms.ValidationError("Write a time as 90 s, 10 min, 6 h or 7 d.")
            seconds += float(found[1]) * _UNITS[found[2] or "s"]
            at = found.end()
        if not math.isfinite(seconds):
            raise forms.ValidationError("That is longer than any time: write it as 90 s, 10 min, 6 h or 7 d.")
        return int(seconds) if seconds == int(seconds) else seconds


class SizesField(forms.CharField):
    """Numbers of devices: `20`, `50%`; several with commas where `many`, and `@dev-1 dev-2` names some."""

    def __init__(self, *, many: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.many = many

    def clean(self, value: Any) -> Any:
        """A list of {"count"}, {"percent"} and {"named"}, or one of the first two. Raises ValidationError."""
        parts = [part.strip() for part in super().clean(value).split(",") if part.strip()]
        sizes: list[dict[str, Any]] = []
        for part in parts:
            if self.many and part.startswith("@"):
                sizes.append({"named": part[1:].split()})
                continue
            number = part.removesuffix("%").strip()
            try:
                sizes.append({"percent": float(number)} if part.endswith("%") else {"count": int(number)})
            except ValueError:
                raise forms.ValidationError(
                    f"{part[:20]!r} is neither a count like 20 nor a share like 50%."
                ) from None
        if not sizes or (not self.many and len(sizes) > 1):
            raise forms.ValidationError("Write a count like 20 or a share like 50%.")
        return sizes if self.many else sizes[0]


class ShareField(forms.CharField):
    """A share in per cent, `5`, `5%` or `2.5 %`, within bounds that are shares in [0, 1] too."""

    def __init__(self, *, least: float, most: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.least, self.most = least, most

    def clean(self, value: Any) -> Any:
        """A share in [least, most], None for nothing. Raises ValidationError for anything else."""
        text = super().clean(value).strip().removesuffix("%").strip()
        if not text:
            return None
        try:
            share = round(float(text) / 100, 9)
        except ValueError:
            raise forms.ValidationError(f"{text[:20]!r} is no share: write it as 5%.") from None
        if not self.least <= share <= self.most:  # false for NaN, too
            span = f"{plain(self.least * 100)}% to {plain(self.most * 100)}%"
            raise forms.ValidationError(f"{text[:20]}% is out of range: write {span}.")
        return share


class NumberField(forms.FloatField):
    """A number that is shown as text: it has changed when it is another number than that text says."""

    def has_changed(self, initial: Any, data: Any) -> bool:
        """As `Field.has_changed`. What is no number has changed."""
        return super().has_changed(self.to_python(initial), data)


class PointsField(NumberField):
    """A margin in points, 0 to 100; a plan holds it as a share in [0, 1]."""

    def __init__(self, **kwargs: Any) -> None:
        words = dict.fromkeys(("invalid", "min_value", "max_value"), "Write points from 0 to 100.")
        super().__init__(min_value=0, max_value=100, error_messages=words, **kwargs)


class _Versions(ModelChoiceIterator):  # type: ignore[type-arg]
    """Signed versions, then the aliases that point to one of them, in a group of their own."""

    def __iter__(self) -> Iterator[Any]:
        if self.field.empty_label is not None:
            yield ("", self.field.empty_label)
        newest: dict[tuple[int, int], Any] = {}
        for row in self.queryset:
            newest.setdefault((row.version_id, row.slot), row)
            yield self.choice(row)
        rows = ModelAlias.objects.filter(version__in={pk for pk, _ in newest}).order_by("model_id", "name")
        named = [
            (alias, row) for alias in rows for row in newest.values() if row.version_id == alias.version_id
        ]
        if named:
            yield (
                "By alias, which is resolved now",
                [
                    (alias_value(alias.name, row), f"{alias}, now {row.version.version}")
                    for alias, row in named
                ],
            )


class ManifestField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """A choice of signed manifests, named by what people know, or by an alias. Newest first."""

    iterator = _Versions

    def label_from_instance(self, obj: Any) -> str:
        """`activity 2.0.0 (sequence 4, staged)`."""
        return f"{obj.version} (sequence {obj.seq}, {obj.version.get_state_display().lower()})"

    def to_python(self, value: Any) -> Any:
        """The manifest. An alias is resolved here, to the newest signed manifest of where it points now,
        which has to be the one that it stood for when the page was opened. Raises ValidationError for what is
        no choice, and for an alias that means another manifest by now.
        """
        found = _ALIAS.fullmatch(str(value))
        if found is None:
            return super().to_python(value)
        shown = super().to_python(found["manifest"])
        assert shown is not None  # 64 digits are not empty
        assert self.queryset is not None  # set by the form
        pointed = ModelAlias.objects.filter(model_id=found["model"], name=found["name"]).values("version_id")
        row = self.queryset.filter(version_id__in=pointed, slot=shown.slot).first()
        if row is None or row.pk != shown.pk:
            now = f"{row.version} (sequence {row.seq})" if row is not None else "no signed version"
            raise forms.ValidationError(
                f"{found['name']} pointed to {shown.version} (sequence {shown.seq}) "
                f"when this page was opened, now it points to {now}: choose again."
            )
        return row


_ALIAS = re.compile(
    r"alias:(?P<model>[a-z0-9._-]{1,32})/(?P<name>[a-z0-9._-]{1,32}):(?P<manifest>[0-9a-f]{64})", re.ASCII
)


def alias_value(name: str, row: Manifest) -> str:
    """How a form names a manifest by an alias: both of them, so that what was shown is what is chosen."""
    return f"alias:{row.version.model_id}/{name}:{row.pk}"


def alias_in(value: Any) -> str:
    """The alias in what a form sent for a manifest, "" for none."""
    found = _ALIAS.fullmatch(str(value))
    return found["name"] if found is not None else ""


class LocalTimeField(forms.CharField):
    """A day and a time of day as a browser sends them, without a zone."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.DateTimeInput(attrs={"type": "datetime-local", "autocomplete": "off"})
        super().__init__(required=False, widget=widget, **kwargs)

    def clean(self, value: Any) -> Any:
        """A datetime without a zone, None for nothing. Raises ValidationError for anything else."""
        text = super().clean(value).strip()
        if not text:
            return None
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            found = None
        if found is None or found.tzinfo is not None:
            raise forms.ValidationError("Write a day and a time as 2026-05-02 22:00.")
        return found


class WindowsField(forms.CharField):
    """Maintenance windows: `mon-fri 22:00 4 h device; sat,sun 00:00 8 h Europe/Berlin`."""

    def clean(self, value: Any) -> Any:
        """As `ota.windows.parse` reads them. Raises ValidationError for anything else."""
        parts = [part.strip() for part in super().clean(value).split(";") if part.strip()]
        return [self._window(part) for part in parts]

    def _window(self, part: str) -> dict[str, Any]:
        found = _WINDOW.fullmatch(part)
        if found is None:
            raise forms.ValidationError(f"Write {part[:40]!r} as mon-fri 22:00 4 h device.")
        seconds = sum(float(n) * _UNITS[unit or "s"] for n, unit in _PART.findall(found["long"]))
        window = {"at": found["at"].zfill(5), "minutes": seconds / 60, "tz": found["tz"] or "UTC"}
        return window | ({"weekdays": self._days(found["days"])} if found["days"] else {})

    def _days(self, text: str) -> list[str]:
        days: list[str] = []
        for part in text.split(","):
            first, _, last = part.partition("-")
            if first not in WEEKDAYS or (last or first) not in WEEKDAYS:
                raise forms.ValidationError(f"{part[:20]!r} is no weekday: {', '.join(WEEKDAYS)}.")
            at = WEEKDAYS.index(first)
            days += [WEEKDAYS[(at + n) % 7] for n in range((WEEKDAYS.index(last or first) - at) % 7 + 1)]
        return days


def windows_text(windows: Sequence[Window]) -> str:
    """Windows as WindowsField reads them back unchanged."""
    return "; ".join(_window_text(window) for window in windows)


def _window_text(window: Window) -> str:
    said = window.to_json()
    days = "" if len(window.weekdays) == len(WEEKDAYS) else f"{','.join(said['weekdays'])} "
    return f"{days}{said['at']} {duration_text(window.minutes * 60)} {window.tz}"


def duration_text(seconds: float) -> str:
    """Seconds as DurationField reads them back unchanged."""
    left, words = seconds, []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if left >= size:
            words.append(f"{int(left // size)} {unit}")
            left %= size
    if left or not words:
        words.append(f"{plain(left)} s")
    return " ".join(words)


def plain(value: float) -> str:
    """A number without needless zeros."""
    return f"{round(value, 6):g}"

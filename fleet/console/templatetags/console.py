"""Tags and filters of the console's templates: states, times, numbers, icons."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final, Literal

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from fleet.console.states import TONE_ICONS, label_of, tone_of
from fleet.console.verb_words import event_words, verb_words
from ota.choices import Tone
from ota.gates import reasons
from ota.windows import zone_of

Missing = Literal[""] | None  # a template gives "" for a field that is not there

register = template.Library()
register.filter(verb_words)
register.filter(event_words)


@register.simple_tag
def icon(name: str, extra: str = "") -> SafeString:
    """An icon of the sprite, decoration only: the word stands beside it."""
    return format_html(
        '<svg class="icon {}" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        extra,
        static("console/icons.svg"),
        name,
    )


@register.simple_tag
def state(kind: str, value: str, word: str = "") -> SafeString:
    """Icon and word of a state, in its tone."""
    tone = tone_of(kind, value)
    return format_html(
        '<span class="state tone-{}" data-state="{}">{}{}</span>',
        tone,
        value,
        icon(TONE_ICONS[Tone(tone)]),
        word or label_of(kind, value),
    )


@register.filter
def state_label(value: str, kind: str) -> str:
    """The word of a state alone."""
    return label_of(kind, value)


@register.filter
def state_tone(value: str, kind: str) -> str:
    """The tone of a state alone."""
    return tone_of(kind, value)


_BROWSERS: Final = re.compile(r"(Firefox|Edg|OPR|HeadlessChrome|Chrome|Version)/([0-9]{1,4})")
_SYSTEMS: Final = re.compile(r"(Windows|Android|iPhone|iPad|Macintosh|CrOS|Linux)")
_SPOKEN: Final = {"Edg": "Edge", "OPR": "Opera", "HeadlessChrome": "Chrome", "Version": "Safari"}


@register.filter
def browser(text: str) -> str:
    """What a browser calls itself, in a few words: `Firefox 140, Linux`; else its first 60 letters."""
    found = _BROWSERS.findall(text)
    # those who are built on another name it too; the last of Edge and Opera is the one
    own = next((one for one in found if one[0] in ("Edg", "OPR", "Firefox")), found[0] if found else None)
    if own is None:
        return text[:60] or "unknown"
    system = _SYSTEMS.search(text)
    words = f"{_SPOKEN.get(own[0], own[0])} {own[1]}"
    return f"{words}, {system[1]}" if system else words


@register.simple_tag
def when(at: datetime | str | None, empty: str = "never") -> SafeString | str:
    """Relative time, with the absolute one on hover and for machines."""
    if isinstance(at, str):
        at = datetime.fromisoformat(at) if at else None
    if at is None:
        return empty
    return format_html(
        '<time datetime="{}" title="{}" data-relative>{}</time>',
        at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        at.strftime("%Y-%m-%d %H:%M:%S UTC"),
        relative(at, timezone.now()),
    )


def relative(at: datetime, now: datetime) -> str:
    """`just now`, `40 s ago`, `in 3 min`, `5 h ago`, `2 d ago`; a date once it is a month away."""
    seconds = (now - at).total_seconds()
    away = abs(seconds)
    if away < 5:
        return "just now"
    if away >= 30 * 86_400:
        return at.strftime("%Y-%m-%d")
    for unit, size, most in (
        ("s", 1, 60),
        ("min", 60, 3600),
        ("h", 3600, 86_400),
        ("d", 86_400, 30 * 86_400),
    ):
        if away < most:
            words = f"{int(away // size)} {unit}"
            break
    return f"{words} ago" if seconds > 0 else f"in {words}"


@register.filter
def clock(at: datetime | str | None) -> str:
    """HH:MM:SS, UTC."""
    if isinstance(at, str):
        at = datetime.fromisoformat(at) if at else None
    return at.strftime("%H:%M:%S") if at else "—"


@register.filter
def num(value: float | Missing) -> str:
    """A whole number with thin thousands, or a dash for None; of a list that goes on, as `10 000+`."""
    if value is None or value == "":
        return "—"
    more = "+" if getattr(value, "is_more", False) else ""
    return f"{value:,.0f}".replace(",", "\u202f") + more


@register.filter
def size(value: int | Missing) -> str:
    """Bytes in the unit people read, with the binary prefix it is."""
    if value is None or value == "":
        return "—"
    if value < 1024:
        return f"{value} B"
    if value < 1024 * 1024:
        return f"{value / 1024:.1f} KiB"
    return f"{value / 1024 / 1024:.2f} MiB"


@register.filter
def percent(value: float | Missing, digits: int = 1) -> str:
    """A share in [0, 1] as a percentage, or a dash for None."""
    return "—" if value is None or value == "" else f"{value * 100:.{digits}f} %"


@register.filter
def ms(value: float | Missing) -> str:
    """Microseconds as milliseconds with a sensible number of digits."""
    if value is None or value == "":
        return "—"
    return (
        f"{value:.0f} µs"
        if value < 1000
        else f"{value / 1000:.1f} ms"
        if value < 100_000
        else f"{value / 1000:.0f} ms"
    )


@register.filter
def duration(value: float | Missing) -> str:
    """Seconds as `45 s`, `10 min`, `1 h 30 min`, `7 d`."""
    if value is None or value == "":
        return "—"
    left = round(value)
    words = []
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= seconds:
            words.append(f"{left // seconds} {unit}")
            left %= seconds
    return " ".join(words[:2]) or "0 s"


@register.filter
def short(value: str, length: int = 16) -> str:
    """The first characters of a digest."""
    return str(value)[:length]


@register.filter
def get(mapping: dict[str, Any] | None, key: Any) -> Any:
    """A value of a dictionary by a key that is itself a variable."""
    return (mapping or {}).get(key)


@register.filter
def spaced(value: str) -> str:
    """A code or verb as words."""
    return str(value).replace("_", " ")


@register.filter
def shape(value: list[int]) -> str:
    """A tensor shape: 1 × 64 × 6."""
    return " × ".join(str(item) for item in value) or "scalar"


@register.filter
def share(value: float) -> str:
    """A share in [0, 1] as a percentage without needless zeros."""
    return f"{value * 100:.6g} %"


@register.filter
def points(value: float | Missing) -> str:
    """A share in [0, 1] as percentage points without needless zeros."""
    return "—" if value is None or value == "" else f"{value * 100:.1f}".removesuffix(".0")


@register.simple_tag
def plan_size(value: dict[str, Any]) -> str:
    """A part of a plan: `20 devices`, `50 %`, or the devices that are named."""
    if "named" in value:
        shown = ", ".join(value["named"][:6])
        return shown if len(value["named"]) <= 6 else f"{shown} and {len(value['named']) - 6} more"
    if "count" in value:
        return f"{value['count']:.0f} devices"
    return f"{value.get('percent', 0):g} %"


@register.filter
def local_time(at: str, zone: str) -> str:
    """`2026-05-02 16:00 Europe/Berlin (14:00 UTC)`: a time as the plan's people read it, and in UTC."""
    found = datetime.fromisoformat(at)
    there = found.astimezone(zone_of(zone))
    utc = "" if zone == "UTC" else f" ({found:%H:%M} UTC)"
    return f"{there:%Y-%m-%d %H:%M} {zone}{utc}"


@register.filter
def window_words(window: dict[str, Any]) -> str:
    """`mon, tue 22:00 for 4 h, in each device's zone`."""
    days = "" if len(window["weekdays"]) == 7 else f"{', '.join(window['weekdays'])} "
    zone = "each device's zone" if window["tz"] == "device" else window["tz"]
    return f"{days}{window['at']} for {duration(window['minutes'] * 60)}, in {zone}"


@register.filter
def plain(value: float) -> str:
    """A number without needless zeros."""
    return f"{value:g}"


@register.filter
def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


@register.filter
def reason_words(codes: list[str]) -> str:
    """Why a wave has not passed, in words."""
    return reasons.words(codes)


@register.simple_tag
def gate_value(value: float | Missing, kind: str) -> str:
    """A gate's figure: an e-value for quality gates, a share for the others."""
    if value is None or value == "":
        return "—"
    if kind == "quality":
        return f"E = {value:.3g}" if value < 1e6 else f"E = {value:.1e}"
    return percent(value)


@register.simple_tag
def gate_interval(value: list[float | None] | None, kind: str) -> str:
    """A gate's interval; a side that does not exist is not bounded yet."""
    if not value or len(value) != 2:
        return "—"
    low, high = value
    if kind == "quality":
        if low is None and high is None:
            return "not bounded yet"
        sides = ["…" if side is None else f"{side * 100:+.1f}" for side in (low, high)]
        return f"{sides[0]} to {sides[1]} points"
    return f"{percent(low)} to {percent(high)}"


_SKIPPED: Final = {
    "already_installed": "run it already",
    "other_rollout": "held by another rollout",
    "quarantined": "quarantined",
    "not_in_bank": "without it in their other bank",
    "target_class": "of a class the manifest does not list",
    "not_preflighted": "of a class that changed since preflight",
    "unproven": "of a class it is unproven for",
}


@register.filter
def skip_words(reason: str) -> str:
    """Why devices are not part of a rollout, after a number."""
    return _SKIPPED.get(reason, reason.replace("_", " "))

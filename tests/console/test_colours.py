"""The palette in both themes: text is readable, states are told apart by more than colour."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fleet.console.states import ALL_TONES, TONE_ICONS, label_of
from ota.choices import Tone

STATIC = Path(__file__).resolve().parents[2] / "fleet" / "console" / "static" / "console"
CSS = (STATIC / "console.css").read_text()
TOKENS = {
    name: (light, dark)
    for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", CSS)
}
TONES = ("neutral", "active", "good", "attention", "bad")
PAIRS = [
    *(
        (text, back)
        for text in ("ink", "ink-2", "accent")
        for back in ("surface", "ground", "raised", "sunken")
    ),
    *((tone, back) for tone in TONES for back in ("surface", "ground", "raised", f"{tone}-soft")),
    *(("surface", tone) for tone in TONES[1:]),
    ("accent", "accent-soft"),
    ("accent-ink", "accent"),
]
GRAPHICS = [
    *((series, "surface") for series in ("s1", "s2", "s3", "s4", "s5", "s6")),
    ("line-strong", "surface"),
    ("focus", "surface"),
    ("focus", "ground"),
]


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, two: str) -> float:
    """Contrast ratio, WCAG 2.2."""
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast_of_4_5_and_graphics_of_3(theme: int) -> None:
    for least, pairs in ((4.5, PAIRS), (3.0, GRAPHICS)):
        for one, two in pairs:
            found = contrast(TOKENS[one][theme], TOKENS[two][theme])
            assert found >= least, f"{one} on {two}: {found:.2f}, needs {least}"


def test_every_state_has_a_word_a_tone_and_an_icon() -> None:
    sprite = (STATIC / "icons.svg").read_text()
    for kind, states in ALL_TONES.items():
        for value, tone in states.items():
            assert label_of(kind, str(value)), f"{kind} {value}"
            assert f'id="{TONE_ICONS[Tone(tone)]}"' in sprite
    assert len(set(TONE_ICONS.values())) == len(Tone)


def test_every_icon_that_a_template_names_is_in_the_sprite() -> None:
    sprite = (STATIC / "icons.svg").read_text()
    templates = STATIC.parents[1] / "templates"
    named = {
        name
        for path in templates.rglob("*.html")
        for name in re.findall(r'{% icon "(\w+)"', path.read_text())
    }
    assert named
    for name in named:
        assert f'id="{name}"' in sprite, name


def test_own_style_and_script_stay_within_their_budget() -> None:
    assert len((STATIC / "console.css").read_bytes()) <= 30_000
    assert sum(len(path.read_bytes()) for path in STATIC.glob("*.js")) <= 16_000

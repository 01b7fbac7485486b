"""The rollout form: what, who, waves, gates and timers, read into a plan that the backend parses.

It is one form, whose fields people meet on four pages (`plan_pages`): whatever a page sends is read together
with what is stored, so every page checks the whole plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from django import forms

from fleet.console.group_form import query_widget
from fleet.console.plan_fields import (
    DurationField,
    LocalTimeField,
    ManifestField,
    NumberField,
    PointsField,
    ShareField,
    SizesField,
    WindowsField,
    alias_in,
    plain,
)
from fleet.console.plan_merge import merged
from fleet.console.plan_presets import PRESET_LABELS
from fleet.devices.models import DeviceClass, DeviceGroup
from fleet.devices.query import MAX_CHARS
from ota.choices import VersionState
from ota.gates.catalogue import METRICS
from ota.models import Manifest
from ota.plan import NUMBERS, PREVIOUS, Plan, PlanError
from ota.windows import is_zone, zone_of

METRIC_CHOICES: Final = (
    ("accuracy", "Accuracy, from proxy labels"),
    ("anomaly", "Inferences without anomaly"),
    ("latency", "Windows within the latency budget"),
    ("resets", "Hours without an unexpected reset"),
)
OFFERED: Final = frozenset(name for name, _ in METRIC_CHOICES)
"""Metrics that the form has a box for."""
OFFERS_WORDS: Final = "Write a whole number from {:.0f} to {:,.0f}.".format(*NUMBERS["offers_per_minute"][:2])


def _text(**attrs: str) -> forms.TextInput:
    return forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", **attrs})


class RolloutForm(forms.Form):
    """Everything a plan needs; what it means for the fleet is the preview's to say."""

    rev = forms.IntegerField(required=False, widget=forms.HiddenInput(attrs={"autocomplete": "off"}))
    preset = forms.ChoiceField(
        label="Start from",
        required=False,
        choices=[("", "The plan as it is"), *((name, label) for name, label, _ in PRESET_LABELS)],
        widget=forms.RadioSelect,
        help_text="It fills waves and gates, which you can change on the pages that follow.",
    )
    name = forms.CharField(label="Name", max_length=80, widget=_text())
    manifest = ManifestField(
        label="Version",
        queryset=Manifest.objects.none(),
        empty_label="Choose a signed version",
        help_text="Signed versions; chunks of one that is still staging follow by themselves.",
    )
    classes = forms.ModelMultipleChoiceField(
        label="Device classes",
        queryset=DeviceClass.objects.all(),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="None chosen means all.",
    )
    devices = forms.CharField(
        label="Only these devices",
        required=False,
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
        help_text="Ids, separated by spaces, commas or lines. Empty does not restrict.",
    )
    groups = forms.ModelMultipleChoiceField(
        label="Groups",
        queryset=DeviceGroup.objects.all(),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="A device in one of them. None chosen does not restrict.",
    )
    q = forms.CharField(
        label="Query",
        required=False,
        max_length=MAX_CHARS,
        widget=query_widget(),
        help_text="e.g. <code>fw=ge=1.4.0;tag==line-2</code>. Every part that is given must hold.",
    )
    waves = SizesField(
        label="Waves",
        many=True,
        widget=_text(),
        help_text="Growing sizes, e.g. <code>20, 50%, 100%</code>. The last one takes in everybody. "
        "<code>@dev-1 dev-2</code> names devices: not randomised, judged on install failures only.",
    )
    control = SizesField(
        label="Control cohort",
        many=False,
        widget=_text(),
        help_text="Devices that keep their model until the last wave, for comparison.",
    )
    max_in_flight = forms.IntegerField(
        label="At most under way",
        widget=_text(inputmode="numeric"),
        help_text="Devices at once, until a wave passed.",
    )
    offers_per_minute = forms.IntegerField(
        label="Offers in a minute",
        min_value=int(NUMBERS["offers_per_minute"][0]),
        max_value=int(NUMBERS["offers_per_minute"][1]),
        error_messages=dict.fromkeys(("invalid", "min_value", "max_value"), OFFERS_WORDS),
        widget=_text(inputmode="numeric"),
        help_text="At most so many devices are told in any minute.",
    )
    metrics = forms.MultipleChoiceField(
        label="Compare with the control cohort",
        choices=METRIC_CHOICES,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="None chosen: only install failures can halt. Missing telemetry is compared always.",
    )
    accept_proxy = forms.BooleanField(
        label="Proxy labels may pass a gate",
        required=False,
        help_text="Labels known on the device are a biased signal, marked as proxy everywhere.",
    )
    promote_margin = PointsField(
        label="Promote margin, points",
        widget=_text(inputmode="decimal"),
        help_text="To pass, the candidate must be proven less than this much worse.",
    )
    halt_margin = PointsField(
        label="Halt margin, points",
        widget=_text(inputmode="decimal"),
        help_text="A proven harm above this halts.",
    )
    min_pairs = forms.IntegerField(
        label="Least pairs",
        widget=_text(inputmode="numeric"),
        help_text="Pairs that must have been compared.",
    )
    by_class = forms.BooleanField(
        label="Compare each device class apart",
        required=False,
        help_text="Every class must pass by itself and needs its own pairs, so harm to a small class "
        "is not hidden by a large one.",
    )
    r_prove = ShareField(
        label="Proven failures, at most",
        least=NUMBERS["r_prove"][0],
        most=NUMBERS["r_prove"][1],
        required=False,
        widget=_text(inputmode="decimal", placeholder="no proof"),
        help_text="A share as <code>5%</code>. A wave passes only when its installs prove it: "
        "5% takes 59 devices without a failure. Empty asks for no proof.",
    )
    settle = DurationField(
        label="Settle", widget=_text(), help_text="After a device confirmed, before it is measured."
    )
    window = DurationField(label="Measure for", widget=_text(), help_text="Each pair, over the same time.")
    soak = DurationField(label="Soak at least", widget=_text(), help_text="Least time a wave is observed.")
    max_soak = DurationField(
        label="Soak at most", widget=_text(), help_text="After it the wave is inconclusive."
    )
    trial_deadline = DurationField(
        label="Trial deadline", widget=_text(), help_text="A silent trial times out."
    )
    on_fail = forms.ChoiceField(
        label="When a gate fails",
        choices=(("rollback", "Take it back from every device"), ("halt", "Halt and wait for a person")),
    )
    on_inconclusive = forms.ChoiceField(
        label="When nothing is proven in time",
        choices=(("halt", "Halt"), ("manual", "Keep soaking, a person decides")),
    )
    rollback_to = forms.CharField(
        label="A rollback leads to",
        required=False,
        max_length=64,
        widget=_text(placeholder=PREVIOUS),
        help_text="previous: what each device ran at the start. Or a manifest's id, or none.",
    )
    rollback_reason = forms.CharField(
        label="Why there is no way back",
        required=False,
        max_length=500,
        widget=_text(),
        help_text="Only when a rollback leads to none.",
    )
    supersede = forms.BooleanField(
        label="Supersede rollouts that hold these devices",
        required=False,
        help_text="Its start ends them. Otherwise the devices they hold are left out.",
    )

    start_at = LocalTimeField(
        label="Start at", help_text="Then it starts by itself. Empty: somebody starts it."
    )
    zone = forms.CharField(
        label="In zone",
        required=False,
        max_length=64,
        widget=_text(),
        help_text="UTC, or a name as <code>Europe/Berlin</code>.",
    )
    windows = WindowsField(
        label="Windows",
        required=False,
        max_length=500,
        widget=_text(),
        help_text="No offer outside: <code>mon-fri 22:00 4 h device; sat 00:00 8 h UTC</code>. "
        "<code>device</code> is each device's own zone, its attribute <code>tz</code>. Empty: always.",
    )
    late = forms.ChoiceField(
        label="Devices that join later",
        required=False,
        choices=(("skip", "Are left out"), ("tail", "Come last, while the tail is open")),
    )
    tail_days = NumberField(
        label="Tail, days",
        required=False,
        widget=_text(inputmode="decimal"),
        help_text="It stays open so long.",
    )
    requires_approval = forms.BooleanField(
        label="A second person must approve",
        required=False,
        help_text="Large rollouts need that anyway. Whoever wrote the plan cannot.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        offered = (VersionState.SIGNED, VersionState.STAGING, VersionState.STAGED)
        rows = Manifest.objects.filter(revoked_at=None, version__state__in=offered).select_related("version")
        choice = self.fields["manifest"]
        assert isinstance(choice, ManifestField)
        choice.queryset = rows.defer("message", "leaves", "blob").order_by("-created_at")

    def target(self) -> dict[str, Any]:
        """As `ota.targeting.Target` reads it."""
        said = self.cleaned_data
        names = re.split(r"[\s,;]+", said["devices"].strip())
        return {
            "classes": [row.pk for row in said["classes"]],
            "devices": [name for name in names if name],
            "groups": [row.pk for row in said["groups"]],
            "q": said["q"].strip(),
        }

    def clean_zone(self) -> str:
        """A zone that exists; UTC for nothing."""
        name = self.cleaned_data["zone"].strip() or "UTC"
        if not is_zone(name):
            raise forms.ValidationError("Write UTC or a zone as Europe/Berlin.")
        return str(name)

    def clean(self) -> dict[str, Any]:
        """Both margins together, in the unit in which they were written."""
        said = super().clean() or {}
        promote, halt = said.get("promote_margin"), said.get("halt_margin")
        if promote is not None and halt is not None and halt > promote:
            text = f"{plain(halt)} points are more than the promote margin, {plain(promote)} points."
            self.add_error("halt_margin", text)
        return said

    def plan(self, stored: Plan | None = None) -> Plan | None:
        """The plan, or None after putting the refusal beside its field.

        stored: the plan that the form showed; what was not changed is taken from it (`plan_merge`).
        """
        said = self._plan_json()
        try:
            return Plan.parse(said if stored is None else merged(stored, said, self.changed_data))
        except PlanError as error:
            self.add_error(
                field_of(error.field), f"{error.code}: {error.text}" + (f". {error.fix}" if error.fix else "")
            )
            return None

    @property
    def alias(self) -> str:
        """The alias by which the version was chosen; "" when it was chosen itself."""
        return alias_in(self["manifest"].value())

    @property
    def read_rev(self) -> int | None:
        """The revision of the rollout that this form was filled from; None when it names none."""
        said = str(self["rev"].value() or "")
        return int(said) if said.isdecimal() and len(said) < 10 else None

    def differs_in(self, names: Iterable[str]) -> list[str]:
        """Those of the fields that say something else than what they were given at first."""
        changed = set(self.changed_data)
        return [name for name in names if name in changed]

    def _plan_json(self) -> dict[str, Any]:
        said = self.cleaned_data
        chosen = said["metrics"]
        metrics = [
            {
                "metric": name,
                "kind": METRICS[name][0],
                "promote_margin": said["promote_margin"] / 100,
                "halt_margin": said["halt_margin"] / 100,
                "weight": 1 / len(chosen),
            }
            for name in chosen
        ]
        return {
            "waves": said["waves"],
            "control": said["control"],
            "metrics": metrics,
            "accept_proxy": said["accept_proxy"],
            "max_in_flight": said["max_in_flight"],
            "offers_per_minute": said["offers_per_minute"],
            "by_class": said["by_class"],
            "r_prove": said["r_prove"],
            "min_pairs": said["min_pairs"],
            "settle_s": said["settle"],
            "window_s": said["window"],
            "soak_s": said["soak"],
            "max_soak_s": said["max_soak"],
            "trial_deadline_s": said["trial_deadline"],
            "on_fail": said["on_fail"],
            "on_inconclusive": said["on_inconclusive"],
            "rollback_to": said["rollback_to"].strip() or PREVIOUS,
            "rollback_reason": said["rollback_reason"],
            "supersede": said["supersede"],
            "start_at": said["start_at"] and said["start_at"].replace(tzinfo=zone_of(said["zone"])),
            "zone": said["zone"],
            "windows": said["windows"],
            "late": said["late"] or "skip",
            "requires_approval": said["requires_approval"],
            **({} if said["tail_days"] is None else {"tail_days": said["tail_days"]}),
        }


def field_of(name: str) -> str | None:
    """Form field that a plan's field is on; None puts the refusal above the form."""
    base = name.partition("[")[0].partition(".")[0]
    if "margin" in name:
        return "halt_margin" if "halt" in name else "promote_margin"
    if base == "target":
        part = name.partition(".")[2]
        return part if part in ("devices", "groups", "q") else "classes"
    base = base.removesuffix("_s")
    return base if base in RolloutForm.base_fields else None

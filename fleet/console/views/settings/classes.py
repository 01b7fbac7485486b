"""Device classes: the list, and the form that makes or changes one and says first what that means."""

from __future__ import annotations

from typing import Any, Final

from django import forms
from django.contrib import messages
from django.db.models import Count, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from fleet.console.access import actor, page, see
from fleet.console.once import sent_once
from fleet.console.paging import page_of
from fleet.devices import classes
from fleet.devices.errors import ClassError
from fleet.devices.models import Device, DeviceClass
from fleet.mqtt.codec.names import Chip
from ota.choices import ROLLOUT_LIVE
from ota.models import Rollout

WRITE: Final = "devices:admin"
_PLAIN = {"autocomplete": "off", "spellcheck": "false"}


class ClassForm(forms.Form):
    """A kind of board. Name and chip of one that exists stay."""

    name = forms.CharField(
        label="Name", max_length=32, help_text="1 to 32 of a-z, 0-9 and -.", widget=forms.TextInput(_PLAIN)
    )
    chip = forms.ChoiceField(label="Chip", choices=[(one.label, one.label) for one in Chip])
    arena_bytes = forms.IntegerField(
        label="Arena, bytes",
        min_value=1,
        max_value=2**31 - 1,
        help_text="Memory that the interpreter may use for tensors.",
        widget=forms.TextInput({**_PLAIN, "inputmode": "numeric"}),
    )
    slot_bytes = forms.CharField(
        label="Slots, bytes",
        max_length=64,
        help_text="Capacity of each model slot, 1 to 4 of them, separated by blanks; whole chunks of 4096.",
        widget=forms.TextInput(_PLAIN),
    )
    esp_nn_version = forms.CharField(
        label="ESP-NN version", max_length=16, required=False, widget=forms.TextInput(_PLAIN)
    )
    firmware_version = forms.CharField(
        label="Firmware of the line",
        max_length=24,
        help_text="What boards ship with now, as <code>1.4.0</code>.",
        widget=forms.TextInput(_PLAIN),
    )
    operators = forms.CharField(
        label="Operators",
        max_length=8_000,
        help_text="Names as <code>CONV_2D</code>, separated by blanks. A custom operator's in quotes.",
        widget=forms.Textarea({"rows": 5, "spellcheck": "false", "class": "mono"}),
    )
    description = forms.CharField(
        label="Description", max_length=256, required=False, widget=forms.TextInput({"autocomplete": "off"})
    )
    rev = forms.IntegerField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, row: DeviceClass | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if row is not None:
            self.fields["name"].disabled = self.fields["chip"].disabled = True
            self.initial = {"name": row.name, "chip": row.chip, **self.initial}

    def clean_slot_bytes(self) -> list[int]:
        """Whole numbers; what they may be is the verb's to say."""
        words = self.cleaned_data["slot_bytes"].replace(",", " ").split()
        if not all(word.isascii() and word.isdigit() and len(word) <= 10 for word in words):
            raise forms.ValidationError("These are not whole numbers of bytes.")
        return [int(word) for word in words]

    def clean_operators(self) -> list[int | str]:
        """Codes and custom names."""
        try:
            return classes.operators_of(self.cleaned_data["operators"].replace(",", " ").split())
        except ClassError as error:
            raise forms.ValidationError(f"{error.code}: {error.text}") from error


@require_safe
@page("devices:read")
def class_list(request: HttpRequest) -> HttpResponse:
    """Classes by name, with how many devices in service each has."""
    in_service = Count("devices", filter=Q(devices__retired_at=None))
    found = page_of(request, DeviceClass.objects.annotate(n_devices=in_service))
    return render(request, "console/settings/classes.html", {"page": found})


@require_http_methods(["GET", "HEAD", "POST"])
@page(WRITE)
@sent_once
def new(request: HttpRequest) -> HttpResponse:
    """GET: the form. POST: make the class."""
    if request.method != "POST":
        return _form_page(request, ClassForm(initial={"firmware_version": "1.0.0"}))
    form = ClassForm(request.POST)
    if not form.is_valid():
        return _form_page(request, form, status=422)
    said = {name: value for name, value in form.cleaned_data.items() if name != "rev"}
    try:
        classes.create_class(said.pop("name"), **said, actor=actor(request), now=timezone.now())
    except ClassError as error:
        return _refused(request, form, error)
    messages.success(request, f"Class {form.cleaned_data['name']} was made.")
    return see(reverse("console:classes"))


@require_http_methods(["GET", "HEAD", "POST"])
@page(WRITE)
def edit(request: HttpRequest, name: str) -> HttpResponse:
    """GET: the form. POST: save; what changes the class id asks again first, with what rests on it."""
    row = DeviceClass.objects.filter(pk=name).first()
    if row is None:
        raise Http404(f"no device class {name}")
    if request.method != "POST":
        return _form_page(request, ClassForm(initial=_initial(row), row=row), row=row)
    form = ClassForm(request.POST, row=row)
    if not form.is_valid():
        return _form_page(request, form, row=row, status=422)
    said = {key: value for key, value in form.cleaned_data.items() if key not in ("name", "chip")}
    try:
        if _id_of(row, said) != row.class_id and request.POST.get("understood") != "yes":
            return _form_page(request, form, row=row, resting=_resting(row))
        row.rev = said.pop("rev") or 0
        is_other = classes.change_class(row, **said, actor=actor(request), now=timezone.now())
    except ClassError as error:
        return _refused(request, form, error, row=DeviceClass.objects.get(pk=name))
    messages.success(request, "Saved. Inspect and release versions for it again." if is_other else "Saved.")
    return see(reverse("console:classes"))


def _initial(row: DeviceClass) -> dict[str, Any]:
    return {
        "arena_bytes": row.arena_bytes,
        "slot_bytes": " ".join(str(size) for size in row.slot_bytes),
        "operators": " ".join(classes.operator_names(row)),
        "esp_nn_version": row.esp_nn_version,
        "firmware_version": row.firmware_version,
        "description": row.description,
        "rev": row.rev,
    }


def _id_of(row: DeviceClass, said: dict[str, Any]) -> str:
    shape = (said["arena_bytes"], said["slot_bytes"], said["operators"], said["esp_nn_version"])
    return classes.class_id(row.name, row.chip, *shape).hex()


def _resting(row: DeviceClass) -> dict[str, Any]:
    """What rests on the class id of now: devices in service, and rollouts under way."""
    live = Rollout.objects.filter(state__in=ROLLOUT_LIVE, manifest__class_ids__contains=[row.class_id])
    return {
        "devices": Device.objects.filter(device_class=row, retired_at=None).count(),
        "rollouts": list(live.only("pk", "name")[:8]),
    }


def _form_page(
    request: HttpRequest,
    form: ClassForm,
    *,
    row: DeviceClass | None = None,
    resting: dict[str, Any] | None = None,
    is_stale: bool = False,
    status: int = 200,
) -> HttpResponse:
    context = {"form": form, "row": row, "resting": resting, "is_stale": is_stale}
    return render(request, "console/settings/class_form.html", context, status=status)


def _refused(
    request: HttpRequest, form: ClassForm, error: ClassError, *, row: DeviceClass | None = None
) -> HttpResponse:
    field = error.field if error.field in form.fields else None
    form.add_error(field, f"{error.code}: {error.text}")
    status = 409 if error.code in ("stale", "duplicate") else 422
    return _form_page(request, form, row=row, is_stale=error.code == "stale", status=status)

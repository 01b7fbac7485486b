"""Forms of groups: they check form only, what a name or a query means is the verbs' to say."""

from __future__ import annotations

from typing import Any

from django import forms

from fleet.devices.models import DeviceGroup, GroupKind
from fleet.devices.query import MAX_CHARS


def query_widget(**attrs: str) -> forms.Textarea:
    """A field in which queries are typed."""
    return forms.Textarea(
        attrs={"rows": 2, "spellcheck": "false", "autocomplete": "off", "class": "mono query", **attrs}
    )


class GroupForm(forms.Form):
    """A group. Name and kind of one that exists stay."""

    name = forms.CharField(
        label="Name",
        max_length=32,
        help_text="1 to 32 of a-z, 0-9 and -.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    kind = forms.ChoiceField(
        label="Kind",
        choices=(
            (GroupKind.DYNAMIC, "Dynamic, by a query"),
            (GroupKind.STATIC, "Static, by a list"),
        ),
    )
    q = forms.CharField(
        label="Query",
        required=False,
        max_length=MAX_CHARS,
        widget=query_widget(),
        help_text="For a dynamic group, as <code>class==s3-8m;tag==line-2</code>. It may name static groups.",
    )
    description = forms.CharField(
        label="Description",
        required=False,
        max_length=256,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )

    def __init__(self, *args: Any, group: DeviceGroup | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if group is not None:
            self.fields["rev"] = forms.IntegerField(widget=forms.HiddenInput)
            self.fields["name"].disabled = self.fields["kind"].disabled = True
            self.initial = {"name": group.name, "kind": group.kind, **self.initial}

    def clean(self) -> dict[str, Any]:
        """Keep the revision apart from what the verb takes."""
        said = dict(super().clean() or {})
        self.rev = said.pop("rev", 0)
        return said


class MembersForm(forms.Form):
    """The whole list of a static group's members, typed or as a file."""

    rev = forms.IntegerField(widget=forms.HiddenInput)
    devices = forms.CharField(
        label="Ids",
        required=False,
        widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false", "class": "mono"}),
        help_text="Separated by blanks, commas or lines.",
    )
    file = forms.FileField(
        label="Or a file",
        required=False,
        help_text="CSV with a column <code>id</code>, or NDJSON (<code>.ndjson</code>, <code>.jsonl</code>).",
        widget=forms.ClearableFileInput(attrs={"accept": ".csv,.txt,.ndjson,.jsonl"}),
    )

    def clean(self) -> dict[str, Any]:
        """One of the two."""
        said = dict(super().clean() or {})
        if not said.get("devices", "").strip() and not said.get("file"):
            raise forms.ValidationError("Type ids or choose a file. To empty the group, delete it.")
        return said

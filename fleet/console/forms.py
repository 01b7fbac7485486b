"""Forms of the console: they check form only; rules of the product are the verbs' own."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.validators import MaxLengthValidator


class UploadForm(forms.Form):
    """A model file with what a person says about it."""

    model = forms.CharField(
        label="Model",
        max_length=32,
        help_text="The line this is a version of, e.g. <code>activity</code>. A new name starts a new line.",
        widget=forms.TextInput(attrs={"list": "model-names", "autocomplete": "off", "spellcheck": "false"}),
    )
    version = forms.CharField(
        label="Version",
        max_length=24,
        help_text="What people call it, e.g. <code>2.1.0</code>.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    file = forms.FileField(
        label="Model file",
        help_text="A <code>.tflite</code> file, at most 16 MiB.",
        widget=forms.ClearableFileInput(attrs={"accept": ".tflite"}),
    )
    evaluation = forms.FileField(
        label="Evaluation set",
        required=False,
        help_text="An <code>.npz</code> with <code>x</code> and <code>y</code>. Without one nothing shows "
        "that the model is accurate, and its verdict is <em>unproven</em>.",
        widget=forms.ClearableFileInput(attrs={"accept": ".npz"}),
    )
    declared_accuracy = forms.FloatField(
        label="Declared accuracy, percent",
        required=False,
        min_value=0,
        max_value=100,
        help_text="Your own figure for the evaluation set; more than 2 points below it is refused.",
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
    )
    parent = forms.CharField(
        label="Made from",
        required=False,
        max_length=24,
        help_text="The version of this model that it was trained from, e.g. <code>2.0.0</code>. "
        "Its page says so.",
        widget=forms.TextInput(attrs={"list": "version-names", "autocomplete": "off", "spellcheck": "false"}),
    )
    notes = forms.CharField(
        label="Notes",
        required=False,
        validators=[MaxLengthValidator(4000)],
        widget=forms.Textarea(attrs={"rows": 2}),
    )


class ReasonForm(forms.Form):
    """Why. `least` characters; 0 makes it optional."""

    reason = forms.CharField(
        label="Reason", required=False, max_length=500, widget=forms.Textarea(attrs={"rows": 2})
    )

    def __init__(self, *args: Any, is_required: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = is_required
        if is_required:
            self.fields["reason"].help_text = "It goes into the audit trail."

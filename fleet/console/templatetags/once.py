"""The number of a form, by which it is done once (`fleet.console.once`)."""

from __future__ import annotations

from django import template
from django.utils.html import format_html

from fleet.ids import uuid7

register = template.Library()


@register.simple_tag
def once() -> str:
    """A hidden field with a fresh number: what was refused left none behind."""
    return format_html('<input type="hidden" name="once" value="{}">', uuid7())

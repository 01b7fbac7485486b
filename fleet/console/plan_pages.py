"""The pages of a plan: which field stands on which, what one page sends read with what is stored.

A draft is a row from the first page on, and each page saves to it. Why the first page makes the row, and not
the click that led to it: a draft has a version, and a click that was not meant leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.forms import BooleanField
from django.http import QueryDict

from fleet.console.models import PlanProgress
from fleet.console.plan_fields import alias_value
from fleet.console.plan_form import RolloutForm
from fleet.console.plan_initial import initial_of
from fleet.console.plan_presets import PLAIN, PRESETS, preset, stored
from ota.choices import RolloutState
from ota.models import ModelAlias, Rollout
from ota.plan import Plan


@dataclass(frozen=True)
class PlanPage:
    """A page. name: in its address. fields: of RolloutForm."""

    name: str
    label: str
    title: str
    lead: str
    fields: tuple[str, ...] = ()


WHAT: Final = PlanPage(
    "what",
    "What",
    "What is rolled out",
    "The version, and where its plan starts from. Nothing reaches a device before you start it.",
    ("manifest", "name", "preset"),
)
WHO: Final = PlanPage(
    "who",
    "Who",
    "Who gets it",
    "Every part that is given must hold. A device whose class cannot run the version is left out, and named.",
    ("classes", "groups", "q", "devices"),
)
WAVES: Final = PlanPage(
    "waves",
    "Waves",
    "In which waves, and when",
    "Small first. A wave opens when the one before it has passed its gates.",
    (
        *("waves", "control", "max_in_flight", "offers_per_minute"),
        *("start_at", "zone", "windows", "late", "tail_days", "requires_approval", "supersede"),
    ),
)
GATES: Final = PlanPage(
    "gates",
    "Gates",
    "What it is judged on",
    "Install failures halt a rollout always. Metrics are compared with devices that keep the old model.",
    (
        *("metrics", "accept_proxy", "promote_margin", "halt_margin", "min_pairs", "r_prove", "by_class"),
        *("settle", "window", "soak", "max_soak", "trial_deadline"),
        *("on_fail", "on_inconclusive", "rollback_to", "rollback_reason"),
    ),
)
REVIEW: Final = PlanPage(
    "review",
    "Review",
    "Review",
    "What is stored, and what it would do to the fleet as it is now. Submitting it starts nothing.",
)
PAGES: Final = (WHAT, WHO, WAVES, GATES, REVIEW)
FORM_PAGES: Final = {page.name: page for page in PAGES[:-1]}
_LISTS: Final = ("classes", "groups", "metrics")
_FILLED_BY_PRESET: Final = (WAVES.name, GATES.name)


def page_of_field(name: str | None) -> PlanPage | None:
    """The page that a field of the form stands on."""
    return next((page for page in FORM_PAGES.values() if name in page.fields), None)


def missing(row: Rollout) -> list[PlanPage]:
    """Pages that nobody has saved yet, in their order; [] for a plan made elsewhere, or submitted."""
    if row.state != RolloutState.DRAFT:
        return []
    progress = PlanProgress.objects.filter(pk=row.pk).first()
    if progress is None:
        return []
    return [page for page in FORM_PAGES.values() if page.name not in progress.saved]


def after(page: PlanPage, *, was_complete: bool) -> PlanPage:
    """Where saving a page leads: the next one, or the review when only this one was to be changed."""
    return REVIEW if was_complete else PAGES[PAGES.index(page) + 1]


def shown(page: PlanPage, row: Rollout) -> RolloutForm:
    """The form as a page shows it first: what is stored, or the preset where nobody has saved yet."""
    said = _stored(page, row)
    if page is GATES and page in missing(row):
        progress = PlanProgress.objects.get(pk=row.pk)
        said |= {name: value for name, value in preset(progress.preset).items() if name in page.fields}
    return RolloutForm(initial=said)


def read(page: PlanPage, row: Rollout, sent: QueryDict) -> RolloutForm:
    """The form as a page sent it, over what is stored on the other pages."""
    said = _stored(page, row)
    given: dict[str, Any] = dict(said)
    if page is WHAT and (name := sent.get("preset", "")) in PRESETS:
        given |= stored(name)
    for name in page.fields:
        given[name] = sent.getlist(name) if name in _LISTS else sent.get(name)
    if row.kind == "revert":
        given["manifest"] = row.manifest_id
    elif page is WHAT and row.alias and given["manifest"] == alias_value(row.alias, row.manifest):
        given["manifest"] = said["manifest"]  # not chosen anew, wherever its alias points by now
    return RolloutForm({**given, "rev": sent.get("rev", "")}, initial=said)


def first(sent: QueryDict) -> RolloutForm:
    """The form of the first page before there is a row."""
    name = sent.get("preset", "")
    said = {"manifest": sent.get("manifest"), "name": sent.get("name"), "preset": name}
    return RolloutForm(PLAIN | stored(name) | said)


def elsewhere(page: PlanPage, form: RolloutForm) -> Iterator[tuple[PlanPage, str]]:
    """Refusals of a form that are about fields of other pages."""
    for name, errors in form.errors.items():
        other = page_of_field(name)
        if other is not None and other is not page:
            yield from ((other, f"{form.fields[name].label}: {text}") for text in errors)


def both(page: PlanPage, form: RolloutForm) -> list[tuple[str, str, str]]:
    """What was typed and what is stored, of each field of the page in which they differ: (label, typed,
    stored).
    """
    rows = []
    for name in form.differs_in(page.fields):
        typed, held = form[name].value(), form.initial.get(name)
        rows.append((str(form.fields[name].label), _words(name, form, typed), _words(name, form, held)))
    return rows


def _words(name: str, form: RolloutForm, value: Any) -> str:
    """A value of a field as people read it."""
    if isinstance(form.fields[name], BooleanField):
        return "yes" if value else "no"
    choices: list[Any] = list(getattr(form.fields[name], "choices", ()))
    grouped = [(key, label) if isinstance(label, list) else ("", [(key, label)]) for key, label in choices]
    labels = {str(key): str(label) for _, rows in grouped for key, label in rows}
    given = value if isinstance(value, list | tuple) else [value]
    return ", ".join(labels.get(str(one), str(one)) for one in given if one not in (None, "")) or "nothing"


def _stored(page: PlanPage, row: Rollout) -> dict[str, Any]:
    said = initial_of(row)
    if page is WHAT and row.alias:
        version = row.manifest.version
        alias = ModelAlias.objects.filter(model_id=version.model_id, name=row.alias, version=version).first()
        if alias is not None:  # else it points elsewhere by now, and the version stays what was chosen
            said["manifest"] = alias_value(alias.name, row.manifest)
    return said | {"preset": ""}


def plan_of(form: RolloutForm, row: Rollout) -> Plan | None:
    """The whole plan that a valid form says, None after putting a refusal beside its field."""
    return form.plan(Plan.parse(row.plan))


def resets(page: PlanPage, form: RolloutForm) -> bool:
    """True when a page fills others anew, which have to be read again."""
    return page is WHAT and bool(form.cleaned_data["preset"])


def saved_after(page: PlanPage, form: RolloutForm, saved: list[str]) -> list[str]:
    """Names of the pages that are saved once this one is."""
    kept = [name for name in saved if not (resets(page, form) and name in _FILLED_BY_PRESET)]
    return sorted({*kept, page.name})

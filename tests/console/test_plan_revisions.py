"""Two tabs with one plan: the later save of what was read before is refused, and keeps what was typed."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from fleet.accounts.audit import Actor
from fleet.console.views import plan as view
from ota import rollouts
from ota.models import Rollout
from tests.console import rows
from tests.console.test_plan_merge import RICH, sent
from tests.console.test_rollout_pages import AsRole
from tests.console.test_rollout_pages import quiet as quiet

pytestmark = pytest.mark.django_db
OTHER = Actor("user", "dana")


@pytest.fixture
def draft(quiet: rows.Filled) -> Rollout:
    """A draft that nobody has changed yet."""
    return rollouts.create(
        "a test", quiet.manifests["3.0.0"], plan=RICH, actor=Actor("user", "olga"), now=rows.present()
    )


def revision(html: str) -> int:
    """What the form in a page says it was filled from."""
    (value,) = re.findall(r'name="rev" value="(\d+)"', html)
    return int(value)


def stored(row: Rollout) -> tuple[Any, ...]:
    fresh = Rollout.objects.get(pk=row.pk)
    return fresh.rev, fresh.state, fresh.name, fresh.plan, fresh.authors


def test_of_two_tabs_the_later_save_is_refused_and_keeps_what_was_typed(
    as_role: AsRole, draft: Rollout
) -> None:
    client, path = as_role("operator"), f"/rollouts/{draft.pk}/edit"
    assert revision(client.get(path).content.decode()) == draft.rev
    typed = sent(draft, soak="45 s", waves="7, 50%, 100%")
    assert client.post(path, sent(draft, name="the first tab")).status_code == 303
    before = stored(draft)
    answer = client.post(path, typed)
    html = unescape(answer.content.decode())
    assert answer.status_code == 409
    assert stored(draft) == before
    told, *_ = re.findall(r"stale: ([^<]*)", html)
    assert re.match(
        r"the rollout was changed since this form was opened by operator-of-test, \d\d:\d\d UTC", told
    )
    assert "differs from the stored plan in: Name, Waves, Soak at least." in told
    assert 'value="7, 50%, 100%"' in html
    assert 'value="45 s"' in html
    assert f'href="{path}" target="_blank"' in html
    assert client.post(path, sent(draft, soak="45 s", rev=revision(html))).status_code == 409, (
        "it stays stale"
    )
    fresh = Rollout.objects.get(pk=draft.pk)
    assert client.post(path, sent(fresh, soak="45 s")).status_code == 303, "what was read again is saved"
    assert (stored(draft)[2], stored(draft)[3]["soak_s"]) == ("the first tab", 45)


@pytest.mark.parametrize("rev", ["", "0", "-1", "x", "9" * 30])
def test_a_save_that_names_no_revision_it_has_read_is_refused(
    as_role: AsRole, draft: Rollout, rev: str
) -> None:
    before = stored(draft)
    answer = as_role("operator").post(f"/rollouts/{draft.pk}/edit", sent(draft, name="typed", rev=rev))
    assert (answer.status_code, stored(draft)) == (409, before)
    assert 'value="typed"' in answer.content.decode()


def test_a_change_while_the_form_is_read_is_noticed_too(
    as_role: AsRole, draft: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the comparison and the UPDATE that saves."""
    edit = rollouts.edit

    def overtaken(row: Rollout, **more: Any) -> Rollout:
        edit(Rollout.objects.get(pk=row.pk), name="dana was faster", actor=OTHER, now=rows.present())
        return edit(row, **more)

    monkeypatch.setattr(view.rollouts, "edit", overtaken)
    answer = as_role("operator").post(f"/rollouts/{draft.pk}/edit", sent(draft, soak="45 s"))
    html = unescape(answer.content.decode())
    assert answer.status_code == 409
    assert "stale: the rollout was changed since this form was opened by dana, " in html
    assert "differs from the stored plan in: Name, Soak at least." in html
    assert 'value="45 s"' in html
    assert stored(draft)[2] == "dana was faster"
    assert stored(draft)[3]["soak_s"] == RICH["soak_s"]


def test_a_preview_and_a_preset_of_a_stale_form_stay_stale(as_role: AsRole, draft: Rollout) -> None:
    client, path = as_role("operator"), f"/rollouts/{draft.pk}/edit"
    rollouts.edit(Rollout.objects.get(pk=draft.pk), name="dana was faster", actor=OTHER, now=rows.present())
    for do in ("preview", "preset-demo"):
        answer = client.post(path, sent(draft, do=do))
        assert answer.status_code == 200
        assert revision(answer.content.decode()) == draft.rev

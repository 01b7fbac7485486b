"""Two tabs with one plan: the later save of what was read before is refused, and keeps what was typed."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from fleet.accounts.audit import Actor
from fleet.console import plan_drafts
from fleet.console.plan_initial import initial_of
from ota import rollouts
from ota.models import Rollout
from tests.console import planning, rows
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
    client, path = as_role("operator"), planning.path(draft, "gates")
    rev = revision(client.get(path).content.decode())
    assert rev == draft.rev
    typed = sent(draft, soak="45 s", min_pairs="14", rev=rev)
    assert planning.send(client, draft, "gates", sent(draft, soak="50 s", rev=rev)).status_code == 303
    before = stored(draft)
    answer = planning.send(client, draft, "gates", typed)
    html = unescape(answer.content.decode())
    assert answer.status_code == 409
    assert stored(draft) == before
    told, *_ = re.findall(r"stale: ([^<]*)", html)
    assert re.match(
        r"the rollout was changed since this page was opened by operator-of-test, \d\d:\d\d UTC", told
    )
    assert "differs from what is stored in: Least pairs, Soak at least." in told
    assert re.search(r"Soak at least</td><td[^>]*>45 s</td><td[^>]*>50 s<", html), "both values"
    assert 'value="14"' in html
    assert 'value="45 s"' in html
    assert f'href="{path}" target="_blank"' in html
    again = sent(draft, soak="45 s", rev=revision(html))
    assert planning.send(client, draft, "gates", again).status_code == 409, "it stays stale"
    fresh = revision(client.get(path).content.decode())
    assert planning.send(client, draft, "gates", sent(draft, soak="45 s", rev=fresh)).status_code == 303
    assert stored(draft)[3]["soak_s"] == 45


def test_a_page_that_was_sent_twice_is_no_conflict_and_saved_once(as_role: AsRole, draft: Rollout) -> None:
    """Without script nothing stops a second click on the button."""
    client = as_role("operator")
    for page, more in (("gates", {"soak": "45 s"}), ("what", {"name": "b", "preset": "demo"})):
        rev = Rollout.objects.values_list("rev", flat=True).get(pk=draft.pk)
        first = planning.send(client, draft, page, sent(draft, rev=rev, **more))
        saved = stored(draft)
        second = planning.send(client, draft, page, sent(draft, rev=rev, **more))
        assert (first.status_code, second.status_code) == (303, 303), second.content.decode()
        assert stored(draft) == saved


@pytest.mark.parametrize("rev", ["", "0", "-1", "x", "9" * 30])
def test_a_save_that_names_no_revision_it_has_read_is_refused(
    as_role: AsRole, draft: Rollout, rev: str
) -> None:
    before = stored(draft)
    answer = planning.send(as_role("operator"), draft, "what", sent(draft, name="typed", rev=rev))
    assert (answer.status_code, stored(draft)) == (409, before)
    assert 'value="typed"' in answer.content.decode()


def test_a_change_while_the_page_is_read_is_noticed_too(
    as_role: AsRole, draft: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the comparison and the UPDATE that saves."""
    edit = rollouts.edit

    def overtaken(row: Rollout, **more: Any) -> Rollout:
        edit(Rollout.objects.get(pk=row.pk), name="dana was faster", actor=OTHER, now=rows.present())
        return edit(row, **more)

    monkeypatch.setattr(plan_drafts.rollouts, "edit", overtaken)
    answer = planning.send(as_role("operator"), draft, "gates", sent(draft, soak="45 s"))
    html = unescape(answer.content.decode())
    assert answer.status_code == 409
    assert "stale: the rollout was changed since this page was opened" in html
    assert "differs from what is stored in: Soak at least." in html
    assert 'value="45 s"' in html
    assert stored(draft)[3]["soak_s"] == RICH["soak_s"]


def test_a_preview_of_a_stale_page_stays_stale(as_role: AsRole, draft: Rollout) -> None:
    client, read = as_role("operator"), draft.rev
    rollouts.edit(Rollout.objects.get(pk=draft.pk), name="dana was faster", actor=OTHER, now=rows.present())
    answer = planning.send(client, draft, "gates", sent(draft, rev=read, do="preview"))
    assert answer.status_code == 200
    assert revision(answer.content.decode()) == read


def test_a_page_on_which_nothing_was_changed_changes_nothing(as_role: AsRole, draft: Rollout) -> None:
    """Whoever only reads the pages of a plan becomes none of its authors."""
    client, before = as_role("admin"), stored(draft)
    for page in planning.PAGES:
        assert planning.send(client, draft, page, sent(draft)).status_code == 303
    assert stored(draft) == before
    assert initial_of(Rollout.objects.get(pk=draft.pk)) == initial_of(draft)

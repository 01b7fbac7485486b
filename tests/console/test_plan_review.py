"""What is submitted is what was reviewed: the plan, and the very manifest that was read."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest
from django.test import Client

from fleet.accounts import tokens
from fleet.accounts.audit import Actor
from fleet.accounts.models import User
from fleet.devices.models import Device
from ota import rollouts
from ota.models import Rollout
from tests.console import planning, rows
from tests.console.test_plan_pages import client as client
from tests.console.test_plan_pages import draft as draft
from tests.console.test_plan_pages import html_of, saved
from tests.console.test_rollout_pages import AsRole, said
from tests.console.test_rollout_pages import quiet as quiet

pytestmark = pytest.mark.django_db
OTHER = Actor("user", "dana")


@pytest.fixture
def read(client: Client, quiet: rows.Filled, draft: Rollout) -> dict[str, str]:
    """What the form of the review sends, of a plan that is through."""
    saved(client, draft, said(quiet))
    return planning.reviewed(html_of(client, draft, "review"))


def sent(client: Client, draft: Rollout, read: dict[str, Any]) -> tuple[int, str]:
    answer = client.post(planning.path(draft, "review"), read)
    return answer.status_code, unescape(answer.content.decode())


def test_a_review_names_the_manifest_that_was_read(
    client: Client, draft: Rollout, read: dict[str, str]
) -> None:
    assert read["manifest"] == read["signed"] == draft.manifest_id
    for left_out in ("manifest", "signed", "plan_digest", "rev"):
        for value in ("", "0" * 64):
            assert sent(client, draft, read | {left_out: value})[0] == 409, left_out
    assert Rollout.objects.get(pk=draft.pk).state == "draft"
    assert sent(client, draft, read)[0] == 303
    assert sent(client, draft, read)[0] == 303, "sent twice"
    assert draft.submissions.count() == 1


def test_another_version_that_somebody_submitted_is_not_what_was_reviewed(
    client: Client, quiet: rows.Filled, draft: Rollout, read: dict[str, str]
) -> None:
    """The digest of the plan is the same: it does not cover the manifest."""
    row = Rollout.objects.get(pk=draft.pk)
    rollouts.edit(row, manifest=quiet.manifests["1.0.0"], actor=OTHER, now=rows.present())
    status, html = sent(client, draft, read)
    assert status == 409
    assert "You read activity 3.0.0 (sequence 3), the plan has activity 1.0.0 (sequence 1) now." in html
    rollouts.submit(row, actor=OTHER, now=rows.present())
    assert row.state == "ready", row.summary["reasons"]
    status, html = sent(client, draft, read)
    assert status == 409, "no redirect that looks like success"
    assert "You read activity 3.0.0 (sequence 3), the plan has activity 1.0.0 (sequence 1) now." in html
    assert draft.submissions.count() == 1


def test_a_version_that_was_signed_anew_since_the_review_is_told_before_it_is_submitted(
    client: Client, quiet: rows.Filled, draft: Rollout, read: dict[str, str]
) -> None:
    rows.release(quiet.versions["3.0.0"], 9, rows.present())
    status, html = sent(client, draft, read)
    assert status == 409
    assert "activity 3.0.0 was signed anew since you opened this page, as sequence 9." in html
    assert Rollout.objects.get(pk=draft.pk).state == "draft"
    html = html_of(client, draft, "review")
    assert "signed anew as sequence 9. This plan stays with sequence 3 until you choose anew" in html
    assert sent(client, draft, planning.reviewed(html))[0] == 303
    assert draft.submissions.get().manifest_sha256 == read["manifest"]


def test_whoever_submits_anew_what_failed_its_preflight_becomes_no_author_of_it(
    as_role: AsRole, client: Client, quiet: rows.Filled, draft: Rollout
) -> None:
    saved(client, draft, said(quiet, requires_approval="on"))
    Device.objects.update(quarantined_at=rows.present(), quarantine_reason="a recall")
    assert planning.made(planning.submit(client, draft)).state == "preflight_failed"
    Device.objects.update(quarantined_at=None, quarantine_reason="")
    admin = as_role("admin")
    assert planning.made(planning.submit(admin, draft)).state == "awaiting_approval"
    submission = draft.submissions.get()
    assert (submission.by, submission.authors) == ("admin-of-test", ["operator-of-test"])
    shown = admin.get(f"/rollouts/{draft.pk}/approve").content.decode()
    names = ("manifest_sha256", "plan_digest", "target_digest")
    digests = {name: getattr(submission, name) for name in names}
    assert all(digest in shown for digest in digests.values())
    assert admin.post(f"/rollouts/{draft.pk}/approve", {"confirm": "yes", **digests}).status_code == 303
    assert Rollout.objects.get(pk=draft.pk).state == "ready"


def test_over_rest_a_draft_is_submitted_as_it_is_stored_and_says_what_it_has_not(
    client: Client, quiet: rows.Filled, draft: Rollout
) -> None:
    """Only the console asks whether its pages were saved."""
    assert client.post(f"/rollouts/{draft.pk}/submit")["Location"] == f"/rollouts/{draft.pk}/plan"
    assert Rollout.objects.get(pk=draft.pk).state == "draft"
    user = User.objects.get(username="operator-of-test")
    actor = Actor("user", user.username)
    scopes = frozenset({"rollouts:read", "rollouts:write"})
    _, token = tokens.issue(user, "t", scopes, actor=actor, now=rows.present())
    answer = Client().post(
        f"/api/v1/rollouts/{draft.pk}/submit",
        "{}",
        content_type="application/json",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert (answer.status_code, answer.json()["state"]) == (200, "ready")
    assert answer.json()["plan"]["metrics"] == []
    assert any("No quality gate" in note for note in answer.json()["summary"]["notes"])

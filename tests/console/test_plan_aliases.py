"""A plan whose version is chosen by an alias: what the page showed is what is planned."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.test import Client

from fleet.accounts.audit import Actor
from fleet.accounts.models import AuditEvent
from ota import aliases
from ota.models import Manifest, ModelAlias, Rollout
from tests.console import planning, rows
from tests.console.test_plan_merge import sent
from tests.console.test_plan_pages import client as client
from tests.console.test_plan_pages import html_of
from tests.console.test_rollout_pages import quiet as quiet
from tests.console.test_rollout_pages import said

pytestmark = pytest.mark.django_db
OTHER = Actor("user", "dana")


def point(manifest: Manifest) -> None:
    """Let `production` point to a version."""
    now = ModelAlias.objects.filter(name="production").first()
    rev = now.rev if now is not None else None
    aliases.point(manifest.version, "production", rev=rev, actor=OTHER, now=rows.present())


def choice(html: str) -> str:
    """The value of the alias in the choice of versions."""
    (value,) = re.findall(r'<option value="([^"]+)"[^>]*>activity production, now [^<]+</option>', html)
    return str(value)


def shown(client: Client, row: Rollout | None = None) -> str:
    path = planning.path(row, "what") if row is not None else "/rollouts/new"
    return choice(unescape(client.get(path).content.decode()))


def test_a_version_is_chosen_by_its_alias_which_is_resolved_then(client: Client, quiet: rows.Filled) -> None:
    lines = quiet.manifests
    point(lines["3.0.0"])
    asked = said(quiet, manifest=shown(client))
    row = planning.made(planning.begin(client, asked))
    assert (row.manifest_id, row.alias) == (lines["3.0.0"].pk, "production")
    event = AuditEvent.objects.get(verb="rollout.create", subject_id=str(row.pk))
    assert event.after is not None
    assert event.after["alias"] == "production"
    assert "asked for as <strong>production</strong>." in html_of(client, row, "review")
    point(lines["2.0.0"])
    assert "which points to 2.0.0 by now. This plan stays with 3.0.0" in html_of(client, row, "review")
    assert f'value="{row.manifest_id}" selected' in html_of(client, row, "what")
    for page in ("who", "waves"):
        planning.send(client, row, page, asked)
    assert Rollout.objects.get(pk=row.pk).manifest_id == lines["3.0.0"].pk, "only choosing anew resolves it"
    planning.send(client, row, "what", asked | {"manifest": shown(client, row)})
    assert Rollout.objects.get(pk=row.pk).manifest_id == lines["2.0.0"].pk


def test_an_alias_that_moved_since_the_page_of_a_draft_was_opened_leaves_the_draft_its_version(
    client: Client, quiet: rows.Filled
) -> None:
    point(quiet.manifests["3.0.0"])
    row = planning.made(planning.begin(client, said(quiet, manifest=shown(client))))
    opened = sent(row, manifest=shown(client, row), name="another name")
    point(quiet.manifests["2.0.0"])
    assert planning.send(client, row, "what", opened).status_code == 303
    row.refresh_from_db()
    assert row.name == "another name"
    assert (row.manifest_id, row.alias) == (quiet.manifests["3.0.0"].pk, "production")
    refused = planning.send(client, row, "what", opened | {"name": ""})
    assert refused.status_code == 422
    assert f'value="{row.manifest_id}" selected' in refused.content.decode(), "it stays chosen"


def test_an_alias_that_moved_since_it_was_chosen_is_asked_for_again(
    client: Client, quiet: rows.Filled
) -> None:
    point(quiet.manifests["3.0.0"])
    asked = said(quiet, manifest=shown(client))
    row = planning.made(planning.begin(client, said(quiet, manifest=quiet.manifests["3.1.0"].pk)))
    changed = sent(row, manifest=shown(client, row))
    point(quiet.manifests["2.0.0"])
    for answer in (planning.begin(client, asked), planning.send(client, row, "what", changed)):
        assert answer.status_code == 422
        html = unescape(answer.content.decode())
        told = html.split('data-test="error-manifest"')[1][:600]
        assert "production pointed to activity 3.0.0 (sequence 3) when this page was opened" in told
        assert "now it points to activity 2.0.0 (sequence 2)" in told
        assert choice(html).endswith(quiet.manifests["2.0.0"].pk), "the choice is the one of now"
        assert " selected" not in html.split('id="id_manifest"')[1].split("</select>")[0]
    assert Rollout.objects.filter(name="a test").count() == 1
    assert Rollout.objects.get(pk=row.pk).manifest_id == quiet.manifests["3.1.0"].pk


def test_a_version_that_was_signed_anew_since_its_alias_was_chosen_is_asked_for_again(
    client: Client, quiet: rows.Filled
) -> None:
    point(quiet.manifests["3.0.0"])
    asked = said(quiet, manifest=shown(client))
    rows.release(quiet.manifests["3.0.0"].version, 9, rows.present())
    answer = planning.begin(client, asked)
    assert answer.status_code == 422
    assert "now it points to activity 3.0.0 (sequence 9)" in answer.content.decode()


def test_an_alias_that_is_gone_since_it_was_chosen_is_told(client: Client, quiet: rows.Filled) -> None:
    point(quiet.manifests["3.0.0"])
    asked = said(quiet, manifest=shown(client))
    ModelAlias.objects.all().delete()
    answer = planning.begin(client, asked)
    assert answer.status_code == 422
    assert "now it points to no signed version" in answer.content.decode()


def test_a_form_with_an_alias_that_is_sent_twice_makes_one_draft_although_it_moved_between(
    client: Client, quiet: rows.Filled
) -> None:
    point(quiet.manifests["3.0.0"])
    asked = said(quiet, manifest=shown(client)) | {"once": "twice"}
    row = planning.made(planning.begin(client, asked))
    point(quiet.manifests["2.0.0"])
    assert planning.made(planning.begin(client, asked)) == row
    assert Rollout.objects.get(pk=row.pk).manifest_id == quiet.manifests["3.0.0"].pk


@pytest.mark.parametrize(
    "value",
    ["alias:activity/none:{}", "alias:activity/production:7", "alias:production:{}", "alias:x", "alias:"],
)
def test_an_alias_that_never_was_a_choice_is_none(client: Client, quiet: rows.Filled, value: str) -> None:
    point(quiet.manifests["3.0.0"])
    other = quiet.manifests["2.0.0"].pk
    answer = planning.begin(client, said(quiet, manifest=value.format(other)))
    assert answer.status_code == 422
    assert 'data-test="error-manifest"' in answer.content.decode()
    assert not Rollout.objects.filter(name="a test").exists()
    assert ModelAlias.objects.count() == 1

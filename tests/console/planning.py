"""Planning a rollout page by page, as a browser without script does it."""

from __future__ import annotations

import re
from typing import Any

from django.test import Client

from fleet.console.plan_pages import FORM_PAGES
from ota import approval
from ota.models import Manifest, Rollout

PAGES = tuple(FORM_PAGES)


def begin(client: Client, fields: dict[str, Any], *, preset: str = "first") -> Any:
    """Send the first page."""
    said = {name: fields[name] for name in ("manifest", "name", "once") if name in fields}
    return client.post("/rollouts/new", {"preset": preset, **said})


def made(answer: Any) -> Rollout:
    """The rollout whose page an answer leads to."""
    assert answer.status_code == 303, answer.content.decode()[:3000]
    found = re.match(r"/rollouts/([0-9a-f-]{36})", answer["Location"])
    assert found, answer["Location"]
    return Rollout.objects.get(pk=found[1])


def path(row: Rollout, page: str) -> str:
    """Address of a page of its plan."""
    return f"/rollouts/{row.pk}/plan/{page}"


def send(client: Client, row: Rollout, page: str, fields: dict[str, Any], **headers: Any) -> Any:
    """Send a page with those of the fields that stand on it; `rev` is the stored one unless it is given."""
    said = {name: fields[name] for name in FORM_PAGES[page].fields if name in fields}
    rev = fields.get("rev", Rollout.objects.values_list("rev", flat=True).get(pk=row.pk))
    return client.post(path(row, page), {**said, "rev": rev, "do": fields.get("do", "save")}, **headers)


def submit(client: Client, row: Rollout, **more: Any) -> Any:
    """Send the review as it stands."""
    row.refresh_from_db()
    manifest = row.manifest
    signed = Manifest.objects.filter(version=manifest.version_id, slot=manifest.slot).latest("seq").pk
    said = {
        "rev": row.rev,
        "plan_digest": approval.plan_digest(row),
        "manifest": manifest.pk,
        "signed": signed,
    }
    return client.post(path(row, "review"), said | more)


def reviewed(html: str) -> dict[str, str]:
    """What the form of a review says that was read."""
    names = "rev|plan_digest|manifest|signed|eligible"
    return dict(re.findall(rf'<input type="hidden" name="({names})" value="([^"]*)"', html))


def plan(client: Client, fields: dict[str, Any], *, upto: str = "review") -> Any:
    """Send page after page and then submit. The first answer that is a refusal, else the last one.

    upto: the page before which it ends.
    """
    answer = begin(client, fields)
    if answer.status_code != 303:
        return answer
    row = made(answer)
    for page in PAGES[1:]:
        if page == upto:
            return answer
        answer = send(client, row, page, {**fields, "do": "save"})
        if answer.status_code != 303:
            return answer
    return submit(client, row)


def change(client: Client, row: Rollout, fields: dict[str, Any]) -> Any:
    """Send every page of a rollout that is planned already, then submit. As `plan` answers."""
    for page in PAGES:
        answer = send(client, row, page, fields)
        if answer.status_code != 303:
            return answer
    return submit(client, row)


def preview(client: Client, fields: dict[str, Any], page: str = "gates", **headers: Any) -> Any:
    """The preview of a page, with the pages before it saved."""
    row = made(plan(client, fields, upto=page))
    return send(client, row, page, {**fields, "do": "preview"}, **headers)

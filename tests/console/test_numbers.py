"""What no number is, or one that nothing can hold: beside its field in every form, and never a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from fleet.accounts.models import ApiToken
from fleet.alerts import webhooks
from fleet.devices import groups
from fleet.devices.models import DeviceClass
from ota.models import ModelAlias, Rollout
from ota.plan_parts import PlanError, read_number
from tests.console import planning, rows
from tests.console.test_plan_pages import client as client
from tests.console.test_plan_pages import draft as draft
from tests.console.test_rollout_pages import AsRole, said
from tests.console.test_rollout_pages import quiet as quiet

pytestmark = pytest.mark.django_db
Forms = Callable[[str, str], dict[str, tuple[str, dict[str, Any]]]]
HUGE = "9" * 400
NONE = (HUGE, f"-{HUGE}", "9" * 5_000, f"1.{'0' * 400}e400", "1e400", "inf", "-inf", "nan", "²", "1e5_0")
TIMES = ("settle", "window", "soak", "max_soak", "trial_deadline")
FIELDS = {
    "waves": ("waves", "control", "max_in_flight", "offers_per_minute", "windows", "start_at", "tail_days"),
    "gates": ("promote_margin", "halt_margin", "min_pairs", "r_prove", *TIMES),
}
UNITS = {
    "waves": ("{}%", "20, {}", "20, {}%"),
    "control": ("{}%",),
    "windows": ("22:00 {} h", "mon 22:00 {}min device", "{}:00 4 h"),
    "r_prove": ("{}%",),
    **dict.fromkeys(TIMES, ("{} d", "1 h {} min", "0.{} d x")),
}


@pytest.mark.parametrize(("page", "field"), [(page, field) for page in FIELDS for field in FIELDS[page]])
def test_no_number_of_a_plan_is_a_fault(
    client: Client, quiet: rows.Filled, draft: Rollout, page: str, field: str
) -> None:
    before = Rollout.objects.get(pk=draft.pk).plan
    for value in NONE:
        for form in ("{}", *UNITS.get(field, ())):
            typed = said(quiet, **{field: form.format(value)})
            answer = planning.send(client, draft, page, typed)
            told = answer.content.decode()
            assert answer.status_code == 422, (form, value[:20])
            assert f'data-test="error-{field}"' in told, (form, value[:20])
            seen = planning.send(client, draft, page, typed | {"do": "preview"}, HTTP_HX_REQUEST="true")
            assert seen.status_code == 200
    assert Rollout.objects.get(pk=draft.pk).plan == before


@pytest.mark.parametrize(
    "value", [10**400, -(10**400), float("inf"), float("nan"), True, "1", None], ids=range(7)
)
def test_a_plan_over_rest_refuses_what_no_number_is(value: Any) -> None:
    for whole in (True, False):
        with pytest.raises(PlanError) as refused:
            read_number(value, "soak_s", 0, 10, whole=whole)
        assert (refused.value.code, refused.value.field) == ("validation", "soak_s")
        assert len(refused.value.text) < 200


@pytest.fixture
def forms(quiet: rows.Filled, settings: Any) -> Forms:
    """Every other form with a number in it, with that number: (path, fields) by field."""
    now = rows.present()
    group = groups.create("pilot", kind="static", actor=rows.ADMIN, now=now)
    settings.WEBHOOK_ALLOW_PRIVATE = True
    hook, _ = webhooks.create("pager", url="http://127.0.0.1:9/hook", actor=rows.ADMIN, now=now)
    alias = reverse("console:version-alias", args=["activity", "3.0.0"])
    one = DeviceClass.objects.get(pk="esp32s3-8m")
    board = {
        "name": "mine", "chip": "ESP32", "arena_bytes": "65536", "slot_bytes": "8192", "rev": one.rev,
        "operators": "CONV_2D", "firmware_version": "1.0.0",
    }  # fmt: skip

    def filled(value: str, token: str) -> dict[str, tuple[str, dict[str, Any]]]:
        return {
            "declared_accuracy": ("/upload", {"model": "m", "version": "1", "declared_accuracy": value}),
            "class arena": ("/settings/new-class", board | {"arena_bytes": value}),
            "class slots": ("/settings/new-class", board | {"slot_bytes": f"4096 {value}"}),
            "class rev": (f"/settings/classes/{one.pk}", board | {"rev": value, "understood": "yes"}),
            "webhook rev": (
                f"/settings/webhooks/{hook.pk}",
                {"name": "x", "url": hook.url, "events": hook.events, "rev": value},
            ),
            "token rev": (f"/settings/tokens/{token}", {"networks": "", "rev": value}),
            "token days": ("/settings/tokens", {"name": "x", "days": value}),
            "grace": (f"/settings/tokens/{token}/rotate", {"grace_hours": value}),
            "group rev": (f"/groups/{group.pk}/edit", {"description": "x", "rev": value}),
            "member rev": (f"/groups/{group.pk}/members", {"devices": "dev-001", "rev": value}),
            "person rev": (
                "/settings/users/admin-of-test",
                {"role": "admin", "is_active": "1", "rev": value},
            ),
            "tickets": ("/new-devices", {"class": one.pk, "count": value}),
            "silence": ("/alerts/silences/begin", {"q": "id==dev-001", "hours": value, "reason": "x"}),
            "alias rev": (alias, {"alias": "stable", "revs": f"stable={value}"}),
            "bulk": ("/bulk/devices?of=all", {"verb": "tag", "shown": value, "do": "go"}),
        }

    return filled


@pytest.mark.parametrize("value", NONE, ids=[value[:12] for value in NONE])
def test_no_number_in_any_other_form_is_a_fault(as_role: AsRole, forms: Forms, value: str) -> None:
    admin = as_role("admin")
    admin.post("/settings/tokens", {"name": "n", "days": "30", "scopes": "devices:read"})
    token = ApiToken.objects.get()
    admin.post(reverse("console:version-alias", args=["activity", "2.0.0"]), {"alias": "stable"})
    for name, (path, fields) in forms(value, token.public_id).items():
        answer = admin.post(path, fields)
        assert answer.status_code in (409, 422), (name, answer.status_code, answer.get("Location"))
    assert ModelAlias.objects.get().version.version == "2.0.0"


@pytest.mark.parametrize("value", NONE, ids=[value[:12] for value in NONE])
def test_no_number_in_an_address_is_a_fault(as_role: AsRole, filled: rows.Filled, value: str) -> None:
    admin, row = as_role("admin"), filled.rollouts["running"]
    for path in (f"/rollouts/{row.pk}?refresh={value}", f"/rollouts/{row.pk}/jobs?wave={value}"):
        assert admin.get(path).status_code == 200, path
    assert admin.post(f"/views/{value}/forget").status_code in (303, 404)

"""Twenty equal requests at once, through the product's own web server, are one deed: with an Idempotency-Key
over REST, and by the number of a form in the console.
"""

import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.db.models import Model
from django.test import Client

from fleet.accounts.models import ApiToken, AuditEvent, Invitation, User
from fleet.alerts.models import Webhook
from fleet.api.models import IdempotentRequest
from fleet.console.plan_presets import PRESETS
from fleet.devices.models import DeviceGroup
from fleet.stack.ports import LOOPBACK
from ota.models import ModelVersion, Rollout
from tests.api.conftest import Caller
from tests.api.test_export_served import server as server
from tests.console.conftest import show_again
from tests.ota.tflite_files import classifier
from tests.ota.world import FIRST_PLAN, World
from tests.stack.services import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
N = 20


@pytest.fixture(autouse=True)
def _no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the server starts: its own limits would hide what is seen here."""
    for name in ("READS", "WRITES", "QUERIES"):
        monkeypatch.setenv(f"FLEET_RATE_{name}", "0")
    monkeypatch.setenv("FLEET_WEBHOOK_ALLOW_PRIVATE", "1")


def at_once(ask: Callable[[httpx.Client], httpx.Response], base: str) -> list[httpx.Response]:
    """N answers to one request that N clients make at the same moment; who is told that the first still runs
    asks again, as the document says.
    """
    barrier = Barrier(N)

    def one(_: int) -> httpx.Response:
        with httpx.Client(base_url=base, timeout=60, trust_env=False, verify=False) as client:
            barrier.wait()
            found: list[httpx.Response] = []

            def is_answered() -> bool:
                found[:] = [ask(client)]
                return "idempotency_in_progress" not in found[0].text

            wait_until(is_answered, deadline_s=60, what="an answer")
            return found[0]

    with ThreadPoolExecutor(N) as pool:
        return list(pool.map(one, range(N)))


def test_twenty_equal_posts_with_one_key_make_one_thing_and_answer_alike(
    call: Caller, world: World, server: tuple[int, int]
) -> None:
    base = f"http://{LOOPBACK}:{server[1]}/api/v1"
    world.add(1)
    version = world.manifest().version.version
    draft = {"name": "one", "model": "kws", "version": version, "plan": FIRST_PLAN}
    token = {"name": "ci", "scopes": ["devices:read"]}
    asked: list[tuple[str, Any, type[Model], str]] = [
        ("/rollouts", draft, Rollout, "rollout.create"),
        ("/tokens", token, ApiToken, "token.issue"),
        ("/webhooks", {"name": "ours", "url": "https://127.0.0.1/x"}, Webhook, "webhook.create"),
        ("/groups", {"name": "line-2", "kind": "static"}, DeviceGroup, "group.create"),
    ]
    for path, body, model, verb in asked:
        before = model._default_manager.count()
        verbs = AuditEvent.objects.filter(verb=verb).count()
        headers = {"Authorization": f"Bearer {call.text}", "Idempotency-Key": uuid4().hex}
        answers = at_once(lambda client, p=path, b=body, h=headers: client.post(p, json=b, headers=h), base)
        told = Counter((one.status_code, one.text, one.headers.get("ETag")) for one in answers)
        assert len(told) == 1, told
        assert answers[0].status_code == 201, answers[0].text
        assert sum("Idempotent-Replayed" in one.headers for one in answers) == N - 1, path
        assert model._default_manager.count() == before + 1, path
        assert AuditEvent.objects.filter(verb=verb).count() == verbs + 1
        if path == "/tokens":
            secret = answers[0].json()["token"]
            kept = [bytes(row.body) for row in IdempotentRequest.objects.all()]
            assert not any(secret.encode() in body for body in kept), (
                "what is kept can be read by nobody else"
            )
    assert call("POST", "/models", {"name": "other"}).status_code == 201
    file = classifier()
    headers["Idempotency-Key"] = uuid4().hex

    def upload(client: httpx.Client) -> httpx.Response:
        parts = {"file": ("m.tflite", file), "meta": (None, '{"version": "1.0.0"}')}
        return client.post("/models/other/versions", files=parts, headers=headers)

    answers = at_once(upload, base)
    assert {one.status_code for one in answers} == {202}, answers[0].text
    assert {one.headers["Location"] for one in answers} == {"/api/v1/models/other/versions/1.0.0"}
    assert ModelVersion.objects.filter(model="other").count() == 1
    file += b"\0"
    assert upload(httpx.Client(base_url=base)).json()["code"] == "idempotency_key_reused"


def test_twenty_equal_forms_make_one_thing_and_lead_to_it(
    make_user: Callable[..., User], world: World, server: tuple[int, int]
) -> None:
    base = f"http://{LOOPBACK}:{server[1]}"
    signed_in = Client()
    signed_in.force_login(make_user("admin"))
    show_again(signed_in)
    world.add(1)
    first = {name: "on" if value is True else value for name, value in PRESETS["first"].items()}
    first = {name: value for name, value in first.items() if value is not False}
    plan = {**first, "manifest": world.manifest().pk, "name": "one", "devices": "", "do": "create"}
    token = {"name": "ci", "days": "30", "scopes": "devices:read"}
    asked: list[tuple[str, dict[str, Any], type[Model], str]] = [
        ("/settings/tokens", token, ApiToken, "201 and /settings/tokens"),
        ("/settings/users", {"role": "viewer"}, Invitation, "201 and /settings/users"),
        ("/new-group", {"name": "line-2", "kind": "static"}, DeviceGroup, "/groups/line-2"),
        ("/rollouts/new", plan, Rollout, "/rollouts/"),
    ]
    for page, typed, model, leads_to in asked:
        html = signed_in.get(page).content.decode()
        form = next(part for part in html.split("<form")[1:] if 'name="once"' in part).split("</form>")[0]
        fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
        stated = re.search(r'action="([^"]+)"', form)
        cookies = {name: one.value for name, one in signed_in.cookies.items()}
        cookies["csrftoken"] = fields["csrfmiddlewaretoken"]
        given: dict[str, Any] = {
            "url": stated[1] if stated else page,
            "data": {**fields, **typed},
            "headers": {
                "Referer": f"{base}{page}",
                "Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()),
            },
        }
        before = model._default_manager.count()
        answers = at_once(partial(send, given), base)
        told = Counter(one.status_code for one in answers)
        assert model._default_manager.count() == before + 1, (page, told, answers[0].text)
        shown, _, place = leads_to.rpartition(" and ")
        assert told == ({201: 1, 303: N - 1} if shown else {303: N}), page
        (led,) = {one.headers["Location"] for one in answers if one.status_code == 303}
        assert led.startswith(place), page
        assert fields["once"] not in signed_in.get(page).content.decode(), "the next form has its own number"


def send(given: dict[str, Any], client: httpx.Client) -> httpx.Response:
    """Send a form as a browser does."""
    return client.post(**given)

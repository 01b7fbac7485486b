"""Every verb of the API leaves exactly one row in the audit trail: who, what, to which object. A refusal
leaves none.
"""

from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from fleet.accounts.models import AuditEvent
from tests.api.conftest import Caller
from tests.api.deeds import DEEDS, READS
from tests.api.stage import Deed, Stage
from tests.api.test_access import SCOPES, ask

pytestmark = pytest.mark.django_db
UNSAFE = [operation for operation in SCOPES if not operation.startswith("GET ")]


@pytest.fixture(autouse=True)
def _places(settings: Any, tmp_path: Path) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    settings.ALERT_EMAILS = ["anna@example.org"]
    settings.MQTT = {**settings.MQTT, "password_file": str(tmp_path / "passwords"), "pid_file": "", "ca": ""}


@pytest.fixture
def stage(call: Caller, request: pytest.FixtureRequest) -> Stage:
    return Stage(call, request)


def do(call: Caller, operation: str, deed: Deed, request_id: str) -> Any:
    """The call of a deed."""
    method = operation.partition(" ")[0]
    headers = {**deed.headers, "X_REQUEST_ID": request_id, "IDEMPOTENCY_KEY": request_id}
    if deed.data is not None:
        return call.send(method, deed.path, *deed.data, **headers)
    return call(method, deed.path, deed.body, **headers)


def rows_since(before: set[Any]) -> list[AuditEvent]:
    return list(AuditEvent.objects.exclude(pk__in=before).order_by("id"))


def seen() -> set[Any]:
    return set(AuditEvent.objects.values_list("pk", flat=True))


def test_every_operation_that_changes_something_is_here() -> None:
    assert sorted([*DEEDS, *READS]) == sorted(UNSAFE)


@pytest.mark.parametrize("operation", DEEDS)
def test_a_deed_leaves_one_row_and_a_refusal_or_its_repetition_none(operation: str, stage: Stage) -> None:
    deed = DEEDS[operation](stage)
    call, request_id = stage.call, uuid4().hex
    before = seen()
    refused = do(call.as_role("viewer", []), operation, deed, request_id) if deed.is_own else None
    before |= {row.pk for row in AuditEvent.objects.filter(verb__in=("token.issue",), actor="system")}
    assert refused is None or refused.status_code == 403, refused.json()
    assert rows_since(before) == [], "who may not do it leaves nothing"

    done = do(call, operation, deed, request_id)
    assert done.status_code < 300, (done.status_code, done.content)
    written = rows_since(before)
    assert Counter(one.verb for one in written) == {deed.verb: 1} | deed.beside
    about = Counter((one.verb, one.subject_kind, one.subject_id) for one in written)
    assert set(about.values()) == {1}, about
    (row,) = [one for one in written if one.verb == deed.verb]
    assert row.request_id == request_id
    assert row.source_ip == "127.0.0.1"
    if deed.is_own:
        assert (row.actor_kind, row.actor) == ("token", f"admin/tfk_{call.token.public_id}")
    else:
        assert row.actor_kind == "device"
    kind, _, name = deed.subject.partition(":")
    assert not kind or row.subject_kind == kind, row
    assert not name or row.subject_id == name, row
    assert row.subject_id
    if operation.startswith("POST ") and deed.is_own:
        before = seen()
        again = do(call, operation, deed, request_id)
        assert (again.status_code, again.content) == (done.status_code, done.content)
        assert again["Idempotent-Replayed"] == "true"
        assert [again.get(one) for one in ("ETag", "Location")] == [
            done.get(one) for one in ("ETag", "Location")
        ]
        assert rows_since(before) == [], "the first answer, and nothing done"


@pytest.mark.parametrize("operation", DEEDS)
def test_a_call_without_its_object_or_with_an_empty_body_leaves_nothing(
    operation: str, call: Caller, client: Client
) -> None:
    before = seen()
    answer = ask(call, operation, IF_MATCH="*")
    assert answer.status_code >= 400 or operation in ("POST /devices:config",), (operation, answer.content)
    assert rows_since(before) == []


@pytest.mark.parametrize("operation", READS)
def test_a_question_that_is_a_post_leaves_nothing(operation: str, call: Caller) -> None:
    before = seen()
    ask(call, operation)
    assert rows_since(before) == []

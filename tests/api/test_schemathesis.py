"""Requests that the OpenAPI document allows, and such as it forbids, to every operation.

What is checked is that nothing answers with a server error, and that every answer has the status, media type
and shape that the document says, with a listed code. The examples are bounded and always the same;
FLEET_SCHEMATHESIS_EXAMPLES=200 is the long form. Left out: `POST /enrol`, whose only token is spent by its
first example (tests/api/test_enrol.py has them all); of `GET /stream` only what happens before it opens can
be seen here, since this is no event loop (tests/live).
"""

import os
import uuid
from datetime import timedelta
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from fleet.api.errors import STATUS
from fleet.devices import classes
from fleet.devices.models import Device
from fleet.stack.paths import PROJECT_ROOT
from fleet.telemetry import ingest
from fleet.telemetry.ingest import Delivery
from ota import keys
from tests.api.conftest import Caller, clock
from tests.telemetry.batches import make_batch, sketch_batch

pytestmark = pytest.mark.django_db
SIGNING = ("config", "trust", "release", "signing-keys")
LONG = int(os.environ.get("FLEET_SCHEMATHESIS_EXAMPLES", "0"))
document = schemathesis.openapi.from_path(str(PROJECT_ROOT / "fleet/api/openapi.json"))
telemetry = document.include(path_regex="telemetry")
others = document.exclude(path_regex="telemetry").exclude(path="/api/v1/enrol")
telemetry.app = others.app = get_wsgi_application()


def bounded(examples: int) -> settings:
    """Always the same requests, this many to an operation at most."""
    return settings(
        max_examples=LONG or examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture
def headers(request: pytest.FixtureRequest, call: Caller, settings: Any) -> Any:
    """Of an administrator whose calls have no limit, in a database with some telemetry, and with signing keys
    where they are asked for (without them 503 `keys_missing` is true); requests keep the test's connection.
    """
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    settings.API_RATES = dict.fromkeys(settings.API_RATES, 0)
    now = clock()
    if any(word in request.node.name for word in SIGNING):
        keys.init(now)
    classes.ensure_default_classes(now)
    Device.objects.create(id="dev-1", device_class_id="host-a", enrolled_at=now)
    start = now - timedelta(hours=1)
    ingest.store([Delivery("dev-1", make_batch(start, 9))], slot=0, now=now)
    ingest.store([Delivery("dev-1", sketch_batch(start, first=20))], slot=0, now=now)
    yield {"Authorization": f"Bearer {call.text}"}
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


def codes_are_listed(context: Any, answer: Any, case: schemathesis.Case) -> None:
    """A problem has the status that its code is listed under.

    What fields mean together (a range, a step, a kind that a metric has) no document of types can say: such
    requests are refused with a code, which is why `positive_data_acceptance` is left out.
    """
    if answer.status_code >= 400:
        told = answer.json()
        assert told["code"] in STATUS[answer.status_code].split(), told
        assert (told["status"], told["request_id"]) == (answer.status_code, answer.headers["x-request-id"][0])


@telemetry.parametrize()
@bounded(25)
def test_an_operation_keeps_to_the_document(case: schemathesis.Case, headers: dict[str, str]) -> None:
    case.call_and_validate(
        headers=headers, additional_checks=[codes_are_listed], excluded_checks=[positive_data_acceptance]
    )


@others.parametrize()
@bounded(5)
def test_every_other_operation_does_too(case: schemathesis.Case, headers: dict[str, str]) -> None:
    is_without = case.method == "POST" and "Idempotency-Key" not in (case.headers or {})
    more = {**headers, "Idempotency-Key": uuid.uuid4().hex} if is_without else headers
    case.call_and_validate(
        headers=more, additional_checks=[codes_are_listed], excluded_checks=[positive_data_acceptance]
    )

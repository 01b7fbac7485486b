"""Requests that the OpenAPI document allows, and such as it forbids, to every telemetry operation.

What is checked is that nothing answers with a server error, and that every answer has the status, media type
and shape that the document says. The examples are bounded and always the same.
"""

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
from tests.api.conftest import Caller, clock
from tests.telemetry.batches import make_batch, sketch_batch

pytestmark = pytest.mark.django_db
EXAMPLES = 25
schema = schemathesis.openapi.from_path(str(PROJECT_ROOT / "fleet/api/openapi.json")).include(
    path_regex="telemetry"
)
schema.app = get_wsgi_application()


@pytest.fixture
def headers(call: Caller, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of an administrator, in a database with some telemetry; requests keep the test's connection."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    now = clock()
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


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_an_operation_keeps_to_the_document(case: schemathesis.Case, headers: dict[str, str]) -> None:
    case.call_and_validate(
        headers=headers, additional_checks=[codes_are_listed], excluded_checks=[positive_data_acceptance]
    )

"""A query's text selects the windows that a plain reading of it selects."""

import random
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from fleet.accounts.audit import Actor
from fleet.devices import classes, groups
from fleet.devices.errors import QueryError as TextError
from fleet.devices.models import Device
from fleet.telemetry import ingest, queries
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.queries import TelemetryQuery
from tests.conftest import NOW
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db
MIDS = {"1.9.0": "1a" * 8, "1.10.0": "2b" * 8, "2.0.0": "3c" * 8}
OLGA = Actor("user", "olga")
FIRST = [f"dev-{i:02}" for i in range(7)]
START = NOW - timedelta(minutes=5)


@pytest.fixture
def fleet(db: None) -> list[SimpleNamespace]:
    """30 devices with tags and attributes, five windows each, of one of three versions."""
    rng = random.Random(11)
    classes.ensure_default_classes(NOW)
    made = []
    for i in range(30):
        one = SimpleNamespace(
            id=f"dev-{i:02}",
            tags=[["line-1"], ["line-2"], []][rng.randrange(3)],
            attributes={"site": rng.choice(["a", "b 100%", "c"])} if rng.random() < 0.8 else {},
            version=rng.choice(list(MIDS)),
            n=rng.randrange(10, 19),
        )
        Device.objects.create(
            id=one.id, device_class_id="host-a", enrolled_at=NOW, tags=one.tags, attributes=one.attributes,
            chip=["s3", "c3"][i % 2], firmware_version=["1.4.0", "1.5.0", ""][i % 3],
        )  # fmt: skip
        made.append(one)
    ingest.store(
        [
            Delivery(
                one.id,
                make_batch(
                    START + timedelta(seconds=50 * k),
                    first=k,
                    mid=MIDS[one.version],
                    version=one.version,
                    n=one.n,
                ),
            )
            for one in made
            for k in range(5)
        ],
        slot=0,
        now=NOW,
    )
    return made


def inferences(q: str) -> tuple[int, str]:
    found = queries.query(TelemetryQuery("inferences", START, NOW, 60, q=q), now=NOW)
    return sum(one.n for one in found.series), found.source


@pytest.mark.parametrize(
    ("q", "means", "source"),
    [
        ("version==1.10.0", lambda one: one.version == "1.10.0", "minute"),
        ("version=lt=1.10.0", lambda one: one.version == "1.9.0", "minute"),
        ("version!=2.0.0;digest==1A*", lambda one: one.version == "1.9.0", "minute"),
        ("version=in=(1.9.0,2.0.0)", lambda one: one.version != "1.10.0", "minute"),
        ("tag==line-1", lambda one: one.tags == ["line-1"], "raw"),
        ('attr.site=="b 100%"', lambda one: one.attributes.get("site") == "b 100%", "raw"),
        ("attr.site!=a", lambda one: one.attributes.get("site", "a") != "a", "raw"),
        ("attr.site=null=true", lambda one: not one.attributes, "raw"),
        ("tag==line-1,version==2.0.0", lambda one: one.tags == ["line-1"] or one.version == "2.0.0", "raw"),
        (
            "(tag==line-1,tag==line-2);version=ge=1.10.0",
            lambda one: one.tags != [] and one.version != "1.9.0",
            "raw",
        ),
        ("group==nobody", lambda one: False, "raw"),
        ("group==first", lambda one: one.id in FIRST, "raw"),
        ("rollout==none-such", lambda one: False, "raw"),
        ("rollout=null=true", lambda one: True, "raw"),
        ("rollout!=none-such", lambda one: False, "raw"),
    ],
)
def test_a_query_counts_the_windows_it_means(
    q: str, means: Callable[[Any], bool], source: str, fleet: list[SimpleNamespace]
) -> None:
    for name, members in (("nobody", []), ("first", FIRST)):
        row = groups.create(name, kind="static", actor=OLGA, now=NOW)
        groups.set_members(row, members, actor=OLGA, now=NOW)
    wanted = 5 * sum(one.n for one in fleet if means(one))
    assert inferences(q) == (wanted, source)


@pytest.mark.parametrize(
    ("q", "code", "position"),
    [
        ("version==", "query_syntax", 9),
        ("modell==activity", "query_unknown_field", 0),
        ("tag==line-1;rollout==0193*", "query_syntax", 21),
        ("group==gone", "query_unknown_field", 7),
    ],
)
def test_a_query_that_is_wrong_says_where(q: str, code: str, position: int) -> None:
    with pytest.raises(TextError) as caught:
        inferences(q)
    assert (caught.value.code, caught.value.position) == (code, position)


def test_a_misspelt_field_of_a_run_is_named() -> None:
    with pytest.raises(TextError) as caught:
        inferences("modell==activity")
    assert caught.value.nearest[0] == "model"


def test_series_by_chip_and_firmware_are_those_of_the_devices(fleet: list[SimpleNamespace]) -> None:
    asked = TelemetryQuery(
        "inferences", START, NOW, 300, group_by=("chip", "firmware"), q="version=ge=1.10.0"
    )
    found = {
        (one.labels["chip"], one.labels["firmware"]): sum(p.value or 0 for p in one.points)
        for one in queries.query(asked, now=NOW).series
    }
    wanted: dict[tuple[str, str], float] = {}
    for i, one in enumerate(fleet):
        if one.version != "1.9.0":
            key = (["s3", "c3"][i % 2], ["1.4.0", "1.5.0", ""][i % 3])
            wanted[key] = wanted.get(key, 0) + 5 * one.n
    assert found == wanted
    assert len(found) > 3

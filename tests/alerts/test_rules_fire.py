"""Each kind of rule fires on planted rows, stays silent on clean ones, and does nothing without data."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.accounts.audit import SYSTEM
from fleet.alerts import evaluation, mailing, rules
from fleet.alerts.errors import AlertError
from fleet.alerts.kinds import KINDS
from fleet.alerts.models import Alert, Delivery, Webhook
from fleet.alerts.pausing import subject
from fleet.console import alert_words
from fleet.devices.models import Device
from fleet.telemetry import arrivals, ingesters
from fleet.telemetry.gap_models import Gap
from fleet.telemetry.ingesters import Told
from fleet.telemetry.models import ColdPart
from tests.alerts.planting import plant_devices, plant_drift, plant_events, plant_letters, plant_windows

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


def plant_drop(now: datetime) -> None:
    ids = plant_devices(6, now)
    plant_windows(ids, now - timedelta(days=1), 10, lab_n=10, lab_ok=9)
    plant_windows(ids, now, 5, lab_n=10, lab_ok=6, version="2.0.0", mid="f" * 16)


def plant_slow(now: datetime) -> None:
    ids = plant_devices(6, now)
    plant_windows(ids, now - timedelta(days=1), 10, n=50)
    plant_windows(ids, now, 5, n=50, us_mean=2400, version="2.0.0", mid="f" * 16)


def plant_silent(now: datetime) -> None:
    plant_windows(plant_devices(1, now), now - timedelta(minutes=16), 5)


def with_windows(now: datetime, **fields: int) -> None:
    plant_windows(plant_devices(1, now), now, 5, **fields)


def with_events(now: datetime, kind: str, n: int, code: str = "") -> None:
    (one,) = plant_devices(1, now)
    plant_events(one, now - MINUTE, kind, n, code)


def with_letters(now: datetime, code: str, n: int) -> None:
    (one,) = plant_devices(1, now)
    plant_letters(one, now - MINUTE, code, n)


def with_gateway(now: datetime, *, held_s: int | None = None, silent_s: int = 1) -> None:
    since = None if held_s is None else now - timedelta(seconds=held_s)
    ingesters.tell([Told("telemetry-0", since, 3 if held_s else 0)], now=now - timedelta(seconds=silent_s))


def with_cold(now: datetime, problem: str) -> None:
    for back in (31, 32):
        day = now.date() - timedelta(days=back)
        name = f"tele_window_{day:%Y%m%d}"
        ColdPart.objects.create(name=name, kind="window", day=day, problem=problem, tried_at=now)


def with_gap(now: datetime, age_s: int, state: str = "open") -> None:
    (one,) = plant_devices(1, now)
    found = now - timedelta(seconds=age_s)
    Gap.objects.create(device_id=one, boot=1, first=3, last=5, records=3, state=state, found_at=found)


def with_refused(now: datetime, refused: int, messages: int) -> None:
    for back, share in ((5, 1), (30, 1), (61, 1_000)):  # what is an hour old is another hour's
        arrivals.count(messages // 2, refused // 2 * share, slot=back % 4, now=now - back * MINUTE)
    plant_letters("nobody", now - MINUTE, "key_unknown", 4)


def with_undelivered(now: datetime, state: str, age: timedelta = timedelta(hours=23)) -> None:
    hook = Webhook.objects.create(
        name="pager", url="https://pager.example/", sealed_secret=b"", created_at=now, created_by="olga"
    )
    for _ in range(2):
        Delivery.objects.create(
            kind="webhook", webhook=hook, event="alert.opened", body={}, state=state, next_at=now,
            created_at=now, finished_at=now - age, error="the receiver answered 500",
        )  # fmt: skip


FIRING: dict[str, Callable[[datetime], None]] = {
    "golden_mismatch": lambda now: with_events(now, "golden_mismatch", 1),
    "mac_bad": lambda now: with_letters(now, "mac_bad", 1),
    "dead_letters": lambda now: with_letters(now, "range", 11),
    "crash_loop": lambda now: with_events(now, "boot", 3, "panic"),
    "anomaly_rate": lambda now: with_windows(now, n=60, anom_n=30),
    "drift": lambda now: plant_drift(plant_devices(1, now), now, worst=1.2),
    "accuracy_drop": plant_drop,
    "latency_budget": plant_slow,
    "low_heap": lambda now: with_windows(now, heap_min_64b=255),
    "telemetry_gap": lambda now: with_gap(now, 3_601),
    "ingest_lag": lambda now: with_gateway(now, held_s=61),
    "cold_export_failed": lambda now: with_cold(now, "no space left on device"),
    "refused_share": lambda now: with_refused(now, 30, 10_000),
    "delivery_failed": lambda now: with_undelivered(now, "failed"),
    "silent": plant_silent,
}
JUST_NOT: dict[str, Callable[[datetime], None]] = {
    "golden_mismatch": lambda now: with_events(now, "low_heap", 1),
    "mac_bad": lambda now: with_letters(now, "range", 1),
    "dead_letters": lambda now: with_letters(now, "range", 10),
    "crash_loop": lambda now: with_events(now, "boot", 2, "panic"),
    "anomaly_rate": lambda now: with_windows(now, n=60, anom_n=6),
    "drift": lambda now: plant_drift(plant_devices(1, now), now, worst=9.0, flagged=2),
    "low_heap": lambda now: with_windows(now, heap_min_64b=256),
    "telemetry_gap": lambda now: with_gap(now, 3_600, "asked"),
    "ingest_lag": lambda now: with_gateway(now, held_s=60),
    "cold_export_failed": lambda now: with_cold(now, ""),
    "refused_share": lambda now: with_refused(now, 16, 10_000),
    "delivery_failed": lambda now: with_undelivered(now, "failed", timedelta(hours=24)),
    "silent": lambda now: plant_windows(plant_devices(1, now), now - timedelta(minutes=14), 5),
}


def make(kind: str, now: datetime, **more: object) -> None:
    rules.create("the-rule", kind=kind, actor=SYSTEM, now=now, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_of_each_kind_fires_on_what_it_is_for(kind: str, now: datetime) -> None:
    make(kind, now)
    FIRING[kind](now)
    outcome = evaluation.evaluate(now)
    assert outcome is not None
    assert (outcome.opened, outcome.problems) == (1, 0)
    alert = Alert.objects.get()
    assert (alert.kind, alert.state, alert.count) == (kind, "open", 1)
    assert bool(alert.evidence["devices"]) != KINDS[kind].is_system
    assert alert_words.sentence(alert).endswith(".")


@pytest.mark.parametrize("kind", JUST_NOT)
def test_a_rule_does_not_fire_just_under_its_threshold(kind: str, now: datetime) -> None:
    make(kind, now)
    JUST_NOT[kind](now)
    assert evaluation.evaluate(now) == evaluation.Outcome()


def test_a_rules_query_leaves_other_devices_alone(now: datetime) -> None:
    make("low_heap", now, q="id==host-a-001")
    plant_windows(plant_devices(2, now), now, 5, heap_min_64b=10)
    evaluation.evaluate(now)
    assert [alert.device_id for alert in Alert.objects.all()] == ["host-a-001"]


def test_a_bad_version_is_one_alert_that_folds_those_of_its_devices(now: datetime) -> None:
    make("low_heap", now)
    plant_windows(plant_devices(6, now), now, 5, heap_min_64b=10)
    evaluation.evaluate(now)
    fleet = Alert.objects.get(device_id="")
    assert (fleet.severity, fleet.folded.count(), fleet.evidence["firing"]) == ("critical", 6, 6)


def test_no_data_neither_fires_nor_resolves(now: datetime) -> None:
    make("low_heap", now)
    with_windows(now, heap_min_64b=10)
    evaluation.evaluate(now)
    for n in range(1, 5):
        evaluation.evaluate(now + timedelta(hours=3, minutes=n))
    assert Alert.objects.get().state == "open"


def test_an_alert_resolves_after_three_clear_evaluations_and_reopens_as_a_flap(now: datetime) -> None:
    make("silent", now)
    plant_silent(now)
    evaluation.evaluate(now)
    Device.objects.update(last_seen_at=now)
    for n in (1, 2):
        evaluation.evaluate(now + n * MINUTE)
        assert Alert.objects.get().state == "open"
    evaluation.evaluate(now + 3 * MINUTE)
    assert Alert.objects.get().state == "resolved"
    evaluation.evaluate(now + 16 * MINUTE)
    alert = Alert.objects.get()
    assert (alert.state, alert.flaps, alert.clear_n) == ("open", 1, 0)
    assert [event.verb for event in alert.events.all()] == ["opened", "resolved", "reopened"]


def test_a_rule_that_cannot_be_evaluated_says_why_and_holds_up_no_other(now: datetime) -> None:
    make("low_heap", now)
    rules.create("broken", kind="silent", actor=SYSTEM, now=now)
    type(rules.create("x", kind="silent", actor=SYSTEM, now=now)).objects.filter(name="broken").update(q="((")
    with_windows(now, heap_min_64b=10)
    outcome = evaluation.evaluate(now)
    assert outcome is not None
    assert (outcome.opened, outcome.problems) == (1, 1)
    from fleet.alerts.models import Rule

    assert "query_syntax" in Rule.objects.get(name="broken").problem


def test_a_gap_that_is_known_to_be_lost_is_no_open_one(now: datetime) -> None:
    make("telemetry_gap", now)
    with_gap(now, 90_000, "lost")
    evaluation.run(now)
    assert not Alert.objects.exists()


def test_a_gateway_that_says_nothing_is_late_since_its_last_word(now: datetime) -> None:
    make("ingest_lag", now)
    with_gateway(now, silent_s=61)
    evaluation.run(now)
    alert = Alert.objects.get()
    assert (subject(alert), alert.scope_key, alert.severity) == (
        "gateway telemetry-0", "gateway:telemetry-0", "warning",
    )  # fmt: skip
    assert (alert.evidence["value"], alert.evidence["is_silent"]) == (61.0, True)
    assert "said nothing for 1 min 1 s" in alert_words.sentence(alert)


def test_a_few_refused_messages_are_no_share_of_a_small_fleet(now: datetime) -> None:
    make("refused_share", now)
    with_refused(now, 8, 20)
    evaluation.run(now)
    assert not Alert.objects.exists()
    with_refused(now, 8, 20)
    evaluation.run(now)
    alert = Alert.objects.get()
    assert subject(alert) == "telemetry and events of all devices"
    assert "16 of 40 messages within 1 h were refused" in alert_words.sentence(alert)


def test_a_gateway_that_ends_as_asked_is_late_no_more(now: datetime) -> None:
    make("ingest_lag", now)
    with_gateway(now, silent_s=300)
    evaluation.run(now)
    ingesters.forget(["telemetry-0"])
    for n in (1, 2, 3):
        evaluation.run(now + n * MINUTE)
    assert Alert.objects.get().state == "resolved"


@pytest.mark.parametrize(("field", "given"), [("q", "id==dev-1"), ("action", "pause")])
def test_a_rule_about_the_installation_has_no_devices_and_pauses_no_rollout(
    now: datetime, field: str, given: str
) -> None:
    with pytest.raises(AlertError) as caught:
        make("ingest_lag", now, **{field: given})
    assert (caught.value.code, caught.value.field) == ("validation", field)


def test_a_receiver_that_was_not_reached_is_named_and_all_is_well_once_it_took_them(now: datetime) -> None:
    make("delivery_failed", now)
    with_undelivered(now, "failed")
    evaluation.run(now)
    alert = Alert.objects.get()
    assert (subject(alert), alert.evidence["n"]) == ("webhook pager", 2)
    assert "2 messages were given up within 24 h, the last because: the receiver answered 500" in (
        alert_words.sentence(alert)
    )
    Delivery.objects.filter(state="failed").update(state="delivered")
    for n in (1, 2, 3):
        evaluation.run(now + n * MINUTE)
    assert Alert.objects.get().state == "resolved"


def test_an_address_that_was_taken_out_is_no_receiver_that_was_not_reached(
    now: datetime, settings: Any
) -> None:
    settings.ALERT_EMAILS = ["ops@fleet.example", "left@fleet.example"]
    make("delivery_failed", now)
    for name in settings.ALERT_EMAILS:
        Delivery.objects.create(
            kind="email", recipient=name, event="alert.opened", body={}, state="failed", next_at=now,
            created_at=now, finished_at=now, error="SMTPServerDisconnected",
        )  # fmt: skip
    evaluation.run(now)
    assert {subject(one) for one in Alert.objects.all()} == {
        "e-mail to ops@fleet.example",
        "e-mail to left@fleet.example",
    }
    settings.ALERT_EMAILS = ["ops@fleet.example"]
    waiting = Delivery.objects.filter(recipient="left@fleet.example", state="pending")
    assert waiting.update(state="failed", error=mailing.NOT_ASKED_FOR, finished_at=now) == 2
    for n in (1, 2, 3):
        evaluation.run(now + n * MINUTE)
    states = {subject(one): one.state for one in Alert.objects.all()}
    assert states == {"e-mail to ops@fleet.example": "open", "e-mail to left@fleet.example": "resolved"}

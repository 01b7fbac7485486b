"""The reported document: when it is sent, what it says, and that a full outbox loses nothing."""

from __future__ import annotations

from device_firmware.host.core import Reset
from fleet.mqtt import topics
from fleet.mqtt.codec.classes import build_id, opset_digest
from fleet.mqtt.codec.names import Action, Chip, CommandVerb, ConfigKey
from ota.desired import DesiredEntry
from tests.firmware.artifacts import CLASS_ID, DEVICE, NOW, OPERATORS, artifact
from tests.firmware.rig import Rig


def test_a_device_says_what_it_is(rig: Rig) -> None:
    rig.core.health(heap_free=123_456, rssi=-61)
    rig.command(CommandVerb.REPORT_NOW)
    report = rig.reports()[-1]
    operators = tuple(op if isinstance(op, int) else op[1] for op in OPERATORS)
    assert (report.class_id, report.firmware, report.chip) == (CLASS_ID, (1, 0, 0), Chip.HOST)
    assert (report.operators, report.opset) == (operators, opset_digest(operators))
    assert (report.firmware_text, report.esp_nn) == ("1.0.0", "none")
    assert (report.trust_version, report.free_heap_bytes) == (1, 123_456)
    assert report.command_counter == rig.core.state().cmd_counter
    assert (report.boot, report.unix_s) == (1, NOW)
    assert list(report.slots) == [0]


def test_reports_are_retained_and_numbered(rig: Rig) -> None:
    rig.install(artifact(1))
    numbers = [report.n for report in rig.reports()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert all(
        (qos, retain) == (1, True)
        for topic, _, qos, retain, _ in rig.port.sent
        if topic.endswith(("/reported", "/online"))
    )
    rig.restart()
    assert (rig.reports()[0].boot, rig.reports()[0].n) == (2, 1)


def test_presence_is_told_on_connect(rig: Rig) -> None:
    online = [payload for topic, payload, *_ in rig.port.sent if topic == topics.device(DEVICE, "online")]
    assert online == [topics.ONLINE]
    rig.reconnect()
    assert len([1 for topic, *_ in rig.port.sent if topic == topics.device(DEVICE, "online")]) == 2


def test_own_topics_are_subscribed_on_every_connection(rig: Rig) -> None:
    own = {topics.TRUST, topics.desired(DEVICE), topics.cmd(DEVICE)}
    assert own <= rig.port.subscriptions
    rig.reconnect()
    assert own <= rig.port.subscriptions


def test_the_heartbeat_comes_at_its_interval(rig: Rig) -> None:
    rig.want(config={ConfigKey.HEARTBEAT_S: 10})
    before = len(rig.reports())
    rig.advance(61)
    assert len(rig.reports()) - before == 6


def test_an_idle_core_wants_to_sleep_until_something_is_due(rig: Rig) -> None:
    rig.install(artifact(1))
    rig.want(DesiredEntry(Action.RUN, artifact(1).id, attempt=1), config={ConfigKey.HEARTBEAT_S: 40})
    rig.advance(1)
    assert rig.run() > 30_000
    rig.core.link(False)
    assert rig.run() > 50_000, "only the open window is waited for"


def test_download_progress_is_told_at_most_twice_a_second(rig: Rig) -> None:
    item = artifact(1, size=60 * 4096)
    missing = topics.chunk(item.mid, 59)
    rig.port.alter = lambda topic, payload: None if topic == missing else payload
    before = len(rig.reports())
    rig.offer(item)
    told = len(rig.reports()) - before
    assert told <= 5, "60 chunks arrived within one moment"
    rig.advance(1)
    assert rig.reports()[-1].slots[0].have == 59


def test_a_full_outbox_is_asked_again_and_nothing_is_lost(rig: Rig) -> None:
    rig.port.full = True
    rig.offer(artifact(1))
    assert rig.run() <= 1000
    count = len(rig.port.sent)
    rig.advance(3)
    assert len(rig.port.sent) == count
    rig.port.full = False
    rig.advance(2)
    assert rig.reports()[-1].slots[0].state.name == "TRIAL"
    rig.confirm()


def test_the_reset_and_its_reason_are_told(rig: Rig) -> None:
    rig.restart(Reset.WATCHDOG)
    assert rig.reports()[-1].reset_reason.name == "WATCHDOG"
    event = rig.events()[0]
    assert (event.kind.name, event.detail[0], event.n) == ("RESET", Reset.WATCHDOG, 1)


def test_an_event_that_was_not_acknowledged_comes_again_with_the_same_bytes(rig: Rig) -> None:
    rig.acknowledges = False
    rig.command(CommandVerb.IDENTIFY)
    where = topics.device(DEVICE, "event")
    first = [payload for topic, payload, *_ in rig.port.sent if topic == where]
    rig.advance(5)
    rig.acknowledges = True
    rig.reconnect()
    again = [payload for topic, payload, *_ in rig.port.sent if topic == where]
    assert again == first + first[-1:], "the reset event was acknowledged before, the result was not"
    rig.reconnect()
    assert len([1 for topic, *_ in rig.port.sent if topic == where]) == len(again)


def test_the_queue_of_events_keeps_the_newest(rig: Rig) -> None:
    rig.core.link(False)
    for _ in range(12):
        rig.command(CommandVerb.IDENTIFY)
    rig.core.link(True)
    rig.run()
    results = [event for event in rig.events() if event.kind.name == "COMMAND_RESULT"]
    assert len(results) == 8
    assert results[-1].detail[2] == rig.core.state().cmd_counter


def test_the_build_id_in_telemetry_is_the_backends(rig: Rig) -> None:
    rig.install(artifact(1))
    rig.infer(1)
    rig.advance(61, step_ms=1000)
    assert rig.batches()[-1].build == build_id("1.0.0", "none", Chip.HOST)

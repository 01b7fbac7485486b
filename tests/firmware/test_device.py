"""Virtual devices against a real broker: what becomes of good models, bad models, faults and false
documents.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from fleet.mqtt import topics
from fleet.mqtt.codec.names import Action, EventKind, RefusalCode, ResetReason, UpdateState
from fleet.stack import mosquitto
from ota.desired import DesiredEntry
from tests.firmware import artifacts
from tests.firmware.virtual import (
    SLOT_BYTES,
    TEST_USER,
    Backend,
    Devices,
    artifact,
    backend_of,
    golden,
    model_bytes,
    running,
    until,
)
from tests.models.make_models import MODELS
from tests.stack.services import Broker, private_mosquitto

CONFIRMED, REVERTED, REFUSED = UpdateState.CONFIRMED, UpdateState.REVERTED, UpdateState.REFUSED
pytestmark = pytest.mark.xdist_group("virtual devices")  # they share a broker and a supervisor
WAIT_S = 60.0
"""Longest wait for one update: a few seconds on an idle machine."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with private_mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devices]:
    with running(tmp_path_factory.mktemp("devices")) as devices:
        yield devices


@pytest.fixture(scope="module", autouse=True)
def fleet(broker: Broker, devices: Devices) -> dict[str, artifacts.Artifact]:
    """Devices that start on activity 1.0.1 together, so that no test waits for that alone.

    `hanging` gets a model that hangs: to be taken back it needs the watchdog's ten seconds twice.
    """
    good = artifact(V1, 1)
    offered = dict.fromkeys(("wrong", "crashing", "wary", "one", "ringing"), good)
    offered["hanging"] = artifact(MODELS["hang"].make(), 1, vectors=golden(V1))
    with backend_of(broker) as backend:
        for name, item in offered.items():
            backend.want(name, item)
        devices.add(*(backend.identity(name) for name in offered))
    return offered


@pytest.fixture
def backend(broker: Broker) -> Iterator[Backend]:
    with backend_of(broker) as backend:
        yield backend


V1, V2, LARGE = model_bytes("activity-v1"), model_bytes("activity-v2"), model_bytes("activity-large")


def test_a_good_model_is_pulled_confirmed_and_tells_telemetry(backend: Backend, devices: Devices) -> None:
    first, second = artifact(V1, 1), artifact(V2, 2)
    backend.want("good", first)  # before the device is there: retained
    devices.add(backend.identity("good"))
    slot = backend.until_state("good", CONFIRMED, first, deadline_s=WAIT_S)
    assert slot.self_test.n == slot.self_test.ok == 4
    assert slot.self_test.max_diff == 0
    assert slot.have == slot.total == len(list(first.publications())) - 2
    assert 0 < slot.arena_used_bytes < 200_000
    assert slot.run_bank is not None
    assert slot.run_bank.manifest_id == first.id[:16]
    backend.want("good", second)
    slot = backend.until_state("good", CONFIRMED, second, deadline_s=WAIT_S)
    assert slot.run_bank is not None
    assert slot.other_bank is not None
    assert slot.other_bank.manifest_id == first.id[:16]
    assert [b.seq for b in (slot.run_bank, slot.other_bank)] == [2, 1]
    for item in (first, second):
        batches = until(
            lambda item=item: [b for b in backend.batches("good") if b.mid == item.mid],  # type: ignore[misc]
            what=f"telemetry of {item.mid}",
        )
        windows = [window for batch in batches for window in batch.windows]
        assert {batch.version for batch in batches} == {item.manifest.version}
        assert all(0 < w.lab_n == w.n and 0 <= w.lab_ok <= w.n for w in windows)
        assert all(0 < w.us_mean <= w.us_max < 1_000_000 for w in windows)
    told = until(
        lambda: {s.seq: s for b in backend.batches("good") if b.mid == first.mid for s in b.sketches},
        what="the sketch of the model run that the swap ended",
    )
    (drift,) = told.values()
    assert drift.inputs is not None, "recordings went through the shipped pipeline"
    assert (len(drift.inputs.channels), drift.inputs.elements) == (6, 100 * drift.n)
    assert sum(drift.class_hist) == drift.n
    names = backend.states("good")
    assert names.index("DOWNLOADING") < names.index("TRIAL") < names.index("CONFIRMED"), names
    log = devices.log("good")
    assert "confirmed" in [line.get("state") for line in log]
    assert not [line for line in log if line["event"].startswith("core_")]
    assert len(log) < 60, "a device's log holds warnings and changes of state only"


def test_a_wrong_answer_to_a_golden_vector_is_taken_back(backend: Backend, devices: Devices) -> None:
    good, bad = artifact(V1, 1), artifact(V2, 2, vectors=golden(V2, offset=9))
    backend.until_state("wrong", CONFIRMED, good, deadline_s=WAIT_S)
    backend.want("wrong", bad)
    slot = backend.until_state("wrong", REVERTED, bad, deadline_s=WAIT_S)
    assert slot.code == RefusalCode.SELFTEST_MISMATCH
    assert slot.run_bank is not None
    assert slot.run_bank.manifest_id == good.id[:16]
    assert slot.failed_id == bad.id[:8]
    kinds = until(
        lambda: {e.kind for e in backend.events("wrong")} & {EventKind.GOLDEN_MISMATCH}, what="the event"
    )
    assert kinds
    seen = len([b for b in backend.batches("wrong") if b.mid == good.mid])
    until(
        lambda: len([b for b in backend.batches("wrong") if b.mid == good.mid]) > seen,
        what="telemetry of the model that was kept",
    )


def test_an_operator_the_class_lacks_is_refused(backend: Backend, devices: Devices) -> None:
    data = MODELS["op-missing"].make()
    told = artifact(data, 1)
    backend.want("lacks", told)
    devices.add(backend.identity("lacks"))
    slot = backend.until_state("lacks", REFUSED, told, deadline_s=WAIT_S)
    assert slot.code == RefusalCode.OP_MISSING
    hidden = artifact(data, 2, operators=(3, 9, 17, 22, 25, 40))  # a manifest that does not own up to ADD_N
    backend.want("lacks", hidden)
    slot = backend.until_state("lacks", REVERTED, hidden, deadline_s=WAIT_S)
    assert slot.code == RefusalCode.OP_MISSING


def test_a_model_that_crashes_the_runtime_is_gone_after_two_panics(
    backend: Backend, devices: Devices
) -> None:
    good = artifact(V1, 1)
    crash = artifact(MODELS["crash-slice"].make(), 2, vectors=golden(V1))
    backend.until_state("crashing", CONFIRMED, good, deadline_s=WAIT_S)
    backend.want("crashing", crash)
    slot = backend.until_state("crashing", REVERTED, crash, deadline_s=WAIT_S)
    assert slot.code == RefusalCode.CRASH_LOOP
    assert slot.run_bank is not None
    assert slot.run_bank.manifest_id == good.id[:16]
    assert backend.reports("crashing")[-1].reset_reason == ResetReason.PANIC
    assert devices.status("crashing")["restarts"] == {"panic": 2}
    until(lambda: devices.status("crashing")["model"] == "activity 1.0.1", what="the kept model to run")


def test_power_cuts_during_a_download_lose_no_chunk(backend: Backend, devices: Devices) -> None:
    large = artifact(LARGE, 1, arena_bytes=100_000)
    devices.add(backend.identity("cut"))
    backend.until("cut", "online", lambda report: report.trust_version == 1, deadline_s=WAIT_S)
    for number, mode in enumerate((1, 0, 2)):
        devices.fault("cut", "cut", ops=20, mode=mode, after_restart=number > 0)
    until(lambda: "fault" in [line["event"] for line in devices.log("cut")], what="the fault armed")
    backend.want("cut", large)
    slot = backend.until_state("cut", CONFIRMED, large, deadline_s=WAIT_S)
    assert slot.have == slot.total > 48
    assert devices.status("cut")["restarts"] == {"power": 3}
    had = [line["have"] for line in devices.log("cut") if line["event"] == "cut_armed"]
    assert len(had) == 3
    assert had[0] < had[1] < had[2], "each boot kept what the one before had written"


def test_a_flipped_bit_in_a_chunk_is_fetched_again(backend: Backend, devices: Devices) -> None:
    large = artifact(LARGE, 1, arena_bytes=100_000)
    devices.add(backend.identity("flipped"))
    backend.until("flipped", "online", lambda report: report.trust_version == 1, deadline_s=WAIT_S)
    devices.fault("flipped", "flip", chunk=21)
    until(lambda: "fault" in [line["event"] for line in devices.log("flipped")], what="the fault armed")
    backend.want("flipped", large)
    backend.until_state("flipped", CONFIRMED, large, deadline_s=WAIT_S)
    assert [line["event"] for line in devices.log("flipped")].count("bit_flipped") == 1


def test_documents_that_prove_nothing_are_refused_with_a_code(backend: Backend, devices: Devices) -> None:
    good = artifact(V1, 1)
    older = backend.document("wary", DesiredEntry(Action.STOP), counter=1 << 40 | 5)
    backend.until_state("wary", CONFIRMED, good, deadline_s=WAIT_S)
    backend.publish(topics.desired("wary"), older)
    backend.until("wary", "the replay refused", lambda r: r.refusal == RefusalCode.SEQUENCE)
    stranger = artifact(V2, 2, signers=(artifacts.keypair("stranger"),))
    backend.want("wary", stranger)
    slot = backend.until_state("wary", REFUSED, stranger, deadline_s=WAIT_S)
    assert slot.code == RefusalCode.SIGNATURE
    forged = bytearray(backend.document("wary", DesiredEntry(Action.STOP)))
    forged[-1] ^= 1
    backend.publish(topics.desired("wary"), bytes(forged))
    backend.until("wary", "the forgery refused", lambda r: r.refusal == RefusalCode.SIGNATURE)
    large = artifact(V2, 3, manifest_changes={"size": SLOT_BYTES + 1})
    backend.want("wary", large)
    assert backend.until_state("wary", REFUSED, large).code == RefusalCode.TOO_LARGE
    slot = backend.reports("wary")[-1].slots[0]
    assert slot.run_bank is not None
    assert slot.run_bank.manifest_id == good.id[:16]


def test_devices_do_not_disturb_each_other(backend: Backend, devices: Devices) -> None:
    item, other = artifact(V1, 1), artifact(V2, 2)
    devices.add(backend.identity("two"))
    meant_for_one = backend.want("one", item, attempt=2)
    backend.stage(other)
    backend.publish(topics.desired("two"), meant_for_one)  # signed, but for another device and topic
    backend.until("two", "a refusal", lambda r: r.refusal != RefusalCode.NONE, deadline_s=WAIT_S)
    backend.until_state("one", CONFIRMED, item, deadline_s=WAIT_S)
    devices.fault("one", "crash")
    until(lambda: devices.status("one")["restarts"] == {"panic": 1}, what="the panic")
    assert devices.status("two")["restarts"] == {}
    backend.want("two", other)
    backend.until_state("two", CONFIRMED, other, deadline_s=WAIT_S)
    backend.until("one", "the same model after the panic", lambda r: r.reset_reason == ResetReason.PANIC)
    slot = backend.until_state("one", CONFIRMED, item, deadline_s=WAIT_S)
    assert slot.run_bank is not None
    assert {b.mid for b in backend.batches("two")} <= {other.mid}


def test_a_model_that_hangs_meets_the_watchdog(
    backend: Backend, devices: Devices, fleet: dict[str, artifacts.Artifact]
) -> None:
    slot = backend.until_state("hanging", REVERTED, fleet["hanging"], deadline_s=WAIT_S)
    assert slot.code == RefusalCode.WATCHDOG
    assert backend.reports("hanging")[-1].reset_reason == ResetReason.WATCHDOG
    assert devices.status("hanging")["restarts"] == {"watchdog": 2}


def test_a_broker_that_lost_its_session_gets_the_ring_again(backend: Backend, devices: Devices) -> None:
    item = artifact(V1, 1)
    backend.until_state("ringing", CONFIRMED, item, deadline_s=WAIT_S)
    before = until(lambda: backend.batches("ringing"), what="telemetry")
    broker = backend.broker
    killed = broker.supervisor.pid("mosquitto")
    (broker.run.mosquitto / "mosquitto.db").unlink()
    os.kill(killed, signal.SIGKILL)
    until(lambda: broker.supervisor.pid("mosquitto") not in (0, killed), what="the broker's restart")
    secret = broker.secret(TEST_USER)
    until(lambda: mosquitto.accepts(broker.port, broker.tls.ca, TEST_USER, secret), what="the broker")
    with backend_of(broker) as fresh:  # a backend that has seen nothing yet
        sent_again = until(
            lambda: {b.first for b in fresh.batches("ringing")} >= {b.first for b in before} or None,
            what="the ring",
        )
        assert sent_again
        assert {b for b in fresh.batches("ringing") if b.first in {x.first for x in before}} == set(before)
        counters = [w.seq for b in fresh.batches("ringing") for w in b.windows]
        assert set(range(min(counters), max(counters) + 1)) == set(counters), "no window is missing"
        fresh.until_state("ringing", CONFIRMED, item, deadline_s=WAIT_S)
    assert devices.status("ringing")["restarts"] == {}

"""An emulated device on a real broker, without the backend: what connection and self-test go through."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tflite_micro.python.tflite_micro import runtime

from device_firmware.host.core import CODES, State
from device_firmware.host.home import Home
from device_firmware.host.identity import Identity
from device_firmware.host.rv32.emulated import EmulatedDevice, Look
from fleet.client import wait_for
from fleet.devices.default_classes import OPERATORS
from fleet.mqtt import topics
from fleet.mqtt.codec import envelope
from fleet.mqtt.codec.names import Action
from fleet.mqtt.codec.reported import Reported, parse_reported
from fleet.stack import mosquitto
from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.ports import free_port
from fleet.stack.processes import Supervisor
from fleet.stack.tls import ensure_tls
from ota.desired import Desired, DesiredEntry, sign_desired
from ota.hints import Hints
from ota.inspector import inspect
from ota.tensors import DType, GoldenVector, TensorSpec
from tests.firmware import artifacts
from tests.models.watch import watch_dir
from tests.stack.services import Broker, Client

pytestmark = [pytest.mark.xdist_group("rv32"), pytest.mark.timeout(240)]

MODELS = PROJECT_ROOT / "deploy" / "models"
SECRET = "e" * 64
TOPIC = topics.device(artifacts.DEVICE, "reported")
BUILTIN = tuple(sorted(OPERATORS.values()))


@dataclasses.dataclass
class Bench:
    """A broker, someone who signs and publishes, and the device."""

    broker: Broker
    backend: Client
    device: EmulatedDevice
    number: int = 0

    def offer(self, item: artifacts.Artifact) -> None:
        """Stage a model and desire it."""
        for topic, payload in item.publications().items():
            self.backend.publish(topic, payload, retain=True)
        self.number += 1
        now = int(time.time())
        document = Desired(
            artifacts.DEVICE,
            1 << 40 | now << 8 | self.number,
            1,
            issued=now,
            entries={0: DesiredEntry(Action.RUN, item.id, attempt=self.number)},
            config={1: 5, 3: 200},
        )
        message = sign_desired(document, artifacts.ONLINE, installation_id=artifacts.INSTALLATION)
        self.backend.publish(topics.desired(artifacts.DEVICE), message, retain=True)

    def wait(self, what: str, is_there: Callable[[Look], bool], *, deadline_s: float = 90) -> Look:
        """Return what the device shows once that is what is waited for."""

        def look() -> tuple[Look | None, str]:
            seen = self.device.look()
            return (seen if is_there(seen) else None), str(seen)

        return wait_for(what, look, deadline_s=deadline_s, every_s=0.02)


def reported(payload: bytes) -> Reported:
    """A reported document, its MAC checked as the backend does."""
    keys = envelope.keyring(artifacts.MAC_KEY)
    plain = envelope.open_uplink(
        "reported", payload, topic=TOPIC, installation_id=artifacts.INSTALLATION, key_lookup=keys
    )
    return parse_reported(plain)


def model(seq: int, file: str, *, wrong_by: int = 0) -> artifacts.Artifact:
    """A real model whose golden outputs the wheel made; wrong_by: LSB added to each of them."""
    data = (MODELS / f"{file}.tflite").read_bytes()
    found = inspect(data)
    inputs, outputs = (
        tuple(TensorSpec.of(DType(t.dtype), t.shape, t.scale, t.zero_point) for t in side)
        for side in (found.inputs, found.outputs)
    )
    return artifacts.artifact(
        seq,
        data=data,
        inputs=inputs,
        outputs=outputs,
        golden=golden(data, inputs[0].size_bytes, wrong_by),
        operators=tuple(sorted({use.builtin for use in found.operators})),
        hints=Hints(window=100, hop=100, channels=6, head=1, classes=outputs[0].shape[-1]),
    )


def golden(data: bytes, input_bytes: int, wrong_by: int) -> list[GoldenVector]:
    """Two vectors of an int8 model on made-up inputs."""
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=98_304)
    shape = interpreter.get_input_details(0)["shape"]
    vectors = []
    for number in range(2):
        given = bytes((17 * number + 3 * i) % 256 for i in range(input_bytes))
        interpreter.set_input(np.frombuffer(given, np.int8).reshape(shape), 0)
        interpreter.invoke()
        made = interpreter.get_output(0).tobytes()
        vectors.append(GoldenVector((given,), (bytes((value + wrong_by) % 256 for value in made),)))
    return vectors


@pytest.fixture(scope="module")
def bench(chip: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A broker with a plain listener, and a device that holds the trust document."""
    folder: Path = tmp_path_factory.mktemp("link")
    run, port, plain = RunDir(folder / "broker").ensure(), free_port(), free_port()
    tls, home = ensure_tls(run), Home(folder / artifacts.DEVICE)
    home.make()
    Identity(
        device_id=artifacts.DEVICE,
        installation_id=artifacts.INSTALLATION,
        class_id=artifacts.CLASS_ID,
        device_class="emulated",
        chip="host",
        firmware="1.0.0",
        esp_nn="",
        arena_bytes=98_304,
        slot_bytes=(385_024,),
        operators=BUILTIN,
        broker_host="",
        broker_port=0,
        broker_ca="",
        broker_user=artifacts.DEVICE,
        broker_secret=SECRET,
        mac_key=artifacts.MAC_KEY,
        roots=tuple(key.public_key for key in artifacts.ROOTS),
        root_threshold=2,
        least_trust_version=1,
    ).save(home.identity_file)
    with Supervisor(run.logs, say=lambda _line: None) as supervisor:
        supervisor.start(mosquitto.spec(run, port, tls, plain_port=plain))
        broker = Broker(run, port, tls, supervisor)
        broker.add_device(artifacts.DEVICE, SECRET)
        with (
            Client(broker, "svc.test-0", broker.secret("svc.test-0")) as backend,
            EmulatedDevice(home, broker_port=plain, data=watch_dir()) as device,
        ):
            backend.publish(topics.TRUST, artifacts.signed_trust(artifacts.trust()), retain=True)
            device.wait_until_ready()
            device.power_on()
            yield Bench(broker, backend, device)


def test_a_model_with_wrong_golden_vectors_is_reverted_and_nothing_else_runs(bench: Bench) -> None:
    bench.offer(model(1, "activity-v1", wrong_by=9))
    seen = bench.wait("reverted", lambda seen: seen.state == State.REVERTED)
    assert (seen.code, seen.seq) == (CODES["selftest_mismatch"], 0)


def test_a_good_model_confirms_although_the_broker_is_killed_in_the_download(bench: Bench) -> None:
    item = model(2, "activity-large")
    bench.offer(item)
    began = bench.wait("ten chunks", lambda seen: seen.have >= 10)
    before = bench.broker.supervisor.pid("mosquitto")
    os.kill(before, signal.SIGKILL)
    halfway = bench.device.look()
    seen = bench.wait("confirmed", lambda seen: seen.state == State.CONFIRMED, deadline_s=150)
    assert bench.broker.supervisor.pid("mosquitto") != before
    assert began.have <= halfway.have < halfway.total
    assert (seen.have, seen.seq) == (seen.total, 2)
    assert "link 0 0" in bench.device.console(), "the device noticed"

    with Client(bench.broker, "svc.test-1", bench.broker.secret("svc.test-1")) as backend:
        backend.subscribe(TOPIC)

        def told() -> tuple[Reported | None, str]:
            last = reported(backend.messages[-1][1]) if backend.messages else None
            is_told = last is not None and last.slots[0].state.name == "CONFIRMED"
            return (last if is_told else None), str(last)

        last = wait_for("its report", told, deadline_s=30)
    assert last.slots[0].run_bank is not None
    assert last.slots[0].run_bank.manifest_id == item.id[:16]

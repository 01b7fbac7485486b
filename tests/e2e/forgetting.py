"""A broker that forgets what it acknowledged, while telemetry flows; every gap is repaired or has a cause.

    python -m tests.e2e.forgetting [--devices 12] [--batches 2] [--seed 1] [--deadline 60] [--json FILE]
    python -m tests.e2e.forgetting --devices 60 --batches 120 --deadline 200     # longer than a ring holds

A whole stack, and a swarm of true firmware cores with a played engine. The gateway is held up, the broker is
killed and its store deleted: what waited for the gateway is gone. Devices connect again and send their ring
anew, as they do after a broken connection, into a broker that knows no gateway: that is acknowledged and gone
too, until each of them has sent `--batches` more. Then the gateway goes on. From here on nobody but gap
repair can know that something is missing. At the end the swarm is held up, so that nothing is on its way.

A witness reads every batch beside the gateway, on both brokers. Exit status 0: no counter that it saw of a
device is beyond what the backend knows of, rows + lost = sent, where lost has a cause, and at least one gap
was repaired by a command. With many batches the ring has overwritten some: lost as `not_held`, and as
`ring_full` what no broker had taken before that.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fleet.client import Client, wait_for
from fleet.mqtt.codec.names import ConfigKey
from fleet.stack.paths import RunDir
from fleet.stack.run import Stack, ended_by_signals
from tests.e2e import killing, swarm_fleet
from tests.e2e.conftest import issue_token
from tests.e2e.killing import say

if TYPE_CHECKING:
    from fleet.mqtt.client import BackendClient
    from tests.e2e.witness import Witness

CONFIG: Final = {
    ConfigKey.HEARTBEAT_S: 30,
    ConfigKey.WINDOW_S: 1,
    ConfigKey.PERIOD_MS: 250,
    ConfigKey.SAMPLE_EVERY: 4,
    ConfigKey.SKETCH_S: 5,
}
"""A window a second, and the two other kinds of records too."""
GRACE: Final = timedelta(seconds=1)
"""In place of a minute, so that the drill ends soon."""
UNEXPLAINED: Final = """
    SELECT device_id, boot, int8multirange(int8range(0, highest + 1)) - counters - coalesce((
        SELECT range_agg(int8range(first, last + 1)) FROM tele_gap g
        WHERE g.device_id = b.device_id AND g.boot = b.boot AND g.state = 'lost' AND g.cause <> ''
    ), '{}') FROM tele_boot b
"""
COUNTED: Final = """
    SELECT (SELECT sum(highest + 1) FROM tele_boot), (SELECT sum(received) FROM tele_boot),
        (SELECT count(*) FROM tele_window)
        + (SELECT count(*) FROM tele_inference) + (SELECT count(*) FROM tele_sketch)
"""


@dataclass
class Outcome:
    """What was seen. records: missing ones by the end of their gap, `repaired` or a cause. sent: counters
    that devices used up, witnessed: those that the witness read too, received: by ingest, raw: rows.
    """

    devices: int
    gaps: int
    records: dict[str, int]
    asked: int
    sent: int
    witnessed: int
    received: int
    raw: int
    lost: int
    seconds: float

    @property
    def is_good(self) -> bool:
        """Every record that a device sent was counted once or is known to be lost, and asking helped."""
        counted = self.raw == self.received and self.raw + self.lost == self.sent
        # While it connects again the witness misses what devices may overwrite before they are asked.
        is_true = 0 <= self.sent - self.witnessed <= self.lost
        return counted and is_true and self.records.get("repaired", 0) > 0 and self.asked > 0


def perform(
    stack: Stack, witness: Witness, reading: BackendClient, *, devices: int, batches: int, deadline_s: float
) -> Outcome:
    """Lose, and repair. The fleet runs a model and sends a window a second; the witness reads from its start
    on.
    """
    from fleet.devices.installation import installation_id

    began = time.monotonic()
    with reading:
        before = _flowing(devices, deadline_s)
        gateway, broker = stack.supervisor.pid("gateway"), stack.supervisor.pid("mosquitto")
        os.killpg(gateway, signal.SIGSTOP)
    mark = witness.mark()
    try:
        os.killpg(broker, signal.SIGKILL)
        for file in stack.run.mosquitto.glob("mosquitto.db*"):
            file.unlink()
        client = witness.reading()

        def forgotten() -> bool:
            seen = witness.since(mark)
            return len(seen) == devices and min(seen.values()) >= batches

        _wait("what is forgotten", forgotten, lambda: witness.since(mark), deadline_s)
    finally:
        os.killpg(gateway, signal.SIGCONT)
    with client:
        asked = _repair(before, deadline_s)
        swarm = stack.supervisor.pid("swarm")
        os.killpg(swarm, signal.SIGSTOP)
        try:
            witnessed = _at_rest(witness, installation_id(), deadline_s)
            return _outcome(devices, asked, witnessed, round(time.monotonic() - began, 1))
        finally:
            os.killpg(swarm, signal.SIGCONT)


def _repair(before: dict[tuple[str, int], int], deadline_s: float) -> int:
    """Once records behind the gap have arrived, close every gap. Returns how many devices were asked."""
    from fleet.telemetry.gap_models import Boot, Gap

    def rose() -> bool:
        now = {(one.device_id, one.boot): one.highest for one in Boot.objects.all()}
        return all(now[key] > highest + 1 for key, highest in before.items())

    _wait("records behind the gap", rose, lambda: before, deadline_s)
    counts: Counter[str] = Counter()

    def repaired() -> bool:
        counts["asked"] += _turn()
        return Gap.objects.exists() and _is_explained()

    _wait("gaps closed", repaired, lambda: counts, deadline_s)
    return counts["asked"]


def _turn() -> int:
    from fleet.devices.installation import installation_id
    from fleet.telemetry import gaps
    from ota import resend

    gaps.run(datetime.now(UTC), installation_id=installation_id(), grace=GRACE)
    return resend.ask(now=datetime.now(UTC))


def _is_explained() -> bool:
    from django.db import connection

    from fleet.telemetry.gap_models import Gap

    with connection.cursor() as cursor:
        cursor.execute(UNEXPLAINED)
        missing = [row for row in cursor.fetchall() if row[2]]
    return not missing and not Gap.objects.filter(state__in=("open", "asked")).exists()


def _at_rest(witness: Witness, installation: bytes, deadline_s: float) -> int:
    """Until the backend knows of the last counter that the witness saw of each boot, and misses none. Returns
    how many counters the witness saw.
    """
    from fleet.telemetry.gap_models import Boot

    behind: list[str] = []

    def level() -> bool:
        seen = {key: max(counters) for key, counters in witness.counters(installation).items()}
        known = {(one.device_id, one.boot): one.highest for one in Boot.objects.all()}
        behind[:] = [name for (name, boot), last in seen.items() if known.get((name, boot), -1) < last]
        return not behind and _is_explained()

    _wait("the last records", level, lambda: behind, deadline_s)
    return sum(len(counters) for counters in witness.counters(installation).values())


def _outcome(devices: int, asked: int, witnessed: int, seconds: float) -> Outcome:
    from django.db import connection

    from fleet.telemetry.gap_models import Gap, GapState

    records: Counter[str] = Counter()
    for gap in Gap.objects.all():
        records[gap.cause or gap.state] += gap.records
    lost = sum(gap.records for gap in Gap.objects.filter(state=GapState.LOST))
    with connection.cursor() as cursor:
        cursor.execute(COUNTED)
        sent, received, raw = (int(value) for value in cursor.fetchone())
    return Outcome(
        devices, Gap.objects.count(), dict(records), asked, sent, witnessed, received, raw, lost, seconds
    )


def _configure(devices: int) -> None:
    """Signed configuration with two keys that the API does not offer yet."""
    from fleet.devices.models import Device
    from ota import delivery

    names = list(Device.objects.values_list("pk", flat=True))
    assert len(names) == devices
    delivery.set_config(names, {int(key): value for key, value in CONFIG.items()}, now=datetime.now(UTC))


def _flowing(devices: int, deadline_s: float) -> dict[tuple[str, int], int]:
    """Once every device has sent a few records: (device, boot) -> highest counter."""
    from fleet.telemetry.gap_models import Boot

    def look() -> bool:
        return Boot.objects.filter(highest__gte=4).values("device_id").distinct().count() == devices

    _wait("telemetry of every device", look, Boot.objects.count, deadline_s)
    return {(one.device_id, one.boot): one.highest for one in Boot.objects.all()}


def _wait(what: str, is_so: Callable[[], bool], seen: Callable[[], Any], deadline_s: float) -> None:
    wait_for(what, lambda: (True if is_so() else None, f"{seen()}"[:400]), deadline_s=deadline_s, every_s=0.3)


def drill(args: argparse.Namespace, folder: Path) -> Outcome:
    """Stack, fleet and first version, then the loss. Leaves nothing running."""
    outside = ("DATABASE_URL", "REDIS_URL", "FLEET_RUN_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in outside}
    os.environ["FLEET_APPROVAL_OVER"] = str(args.devices)
    with Stack(RunDir(folder), say=say, has_plain_mqtt=True, environ=environment) as stack:
        info = stack.start()
        os.environ.update(info.env, DJANGO_SETTINGS_MODULE="fleet.settings")
        import django

        django.setup()
        from tests.e2e.witness import Witness

        answers = swarm_fleet.enrol(args.devices, now=datetime.now(UTC))
        file = swarm_fleet.fleet_file(folder / "fleet", answers)
        assert stack.plain_mqtt_port is not None
        witness = Witness()
        reading = witness.reading()
        stack.supervisor.start(swarm_fleet.swarm(file, args.devices, stack.plain_mqtt_port, args.seed))
        api = Client(info.console_url, issue_token(info))
        _configure(args.devices)
        killing._wait_online(args.devices)
        killer = killing.Killer(stack, api, devices=args.devices, kib=8, seed=args.seed)
        killer.install_first(args.deadline)
        return perform(
            stack,
            witness,
            reading,
            devices=args.devices,
            batches=args.batches,
            deadline_s=args.deadline,
        )


def main() -> int:
    """Command line entry."""
    options = argparse.ArgumentParser(prog="python -m tests.e2e.forgetting", description=__doc__)
    options.add_argument("--devices", type=int, default=12)
    options.add_argument("--batches", type=int, default=2, help="of each device, that the broker forgets")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--deadline", type=float, default=60.0, help="seconds that each wait may take")
    options.add_argument("--json", type=Path, help="write what was seen here")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="forgetting-") as folder, ended_by_signals():
        outcome = drill(args, Path(folder) / "run")
    print(outcome)
    if args.json:
        args.json.write_text(json.dumps(asdict(outcome), indent=1) + "\n")
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())

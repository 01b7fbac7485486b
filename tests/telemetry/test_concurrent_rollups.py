"""Ingest, compaction, recomputation and labels at the same time, each in its connection, add up to raw."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection

from fleet.accounts.audit import Actor
from fleet.devices import classes
from fleet.devices.models import Device
from fleet.stack.paths import PROJECT_ROOT
from fleet.telemetry import compaction, ingest, labels, partitions, recompute
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.labels import Given
from fleet.telemetry.models import Hour, Label, LiveBin, Window
from fleet.telemetry.verification import verify
from tests.conftest import NOW
from tests.telemetry.batches import make_batch, sketch_batch
from tests.telemetry.test_labels import sampled

pytestmark = pytest.mark.django_db(transaction=True)
FIRST = NOW.replace(hour=0) - timedelta(days=1)


@pytest.fixture(autouse=True)
def _clean(transactional_db: None) -> Iterator[None]:
    """Partitions are no rows: flushing the database leaves them."""
    classes.ensure_default_classes(NOW)
    Device.objects.bulk_create(
        Device(id=f"dev-{n}", device_class_id="host-a", enrolled_at=NOW) for n in range(4)
    )
    yield
    with connection.cursor() as cursor:
        for table in partitions.TABLES:
            for name in partitions.existing(table).values():
                cursor.execute(f"DROP TABLE {name}")


def arrivals(seed: int, *, many: int = 60, hours: int = 30) -> list[Delivery]:
    rng = random.Random(seed)
    made = []
    for n in range(many):
        at = FIRST + timedelta(minutes=rng.randrange(hours * 60))
        device, first = f"dev-{rng.randrange(4)}", 1000 * seed + 10 * n
        kind = rng.randrange(4)
        if kind == 0:
            made.append(Delivery(device, sketch_batch(at, first=first)))
        elif kind == 1:
            made.append(sampled(device, at, {first + k: k % 3 for k in range(3)}, first=first))
        else:
            made.append(Delivery(device, make_batch(at, 3, first=first)))
    return made + rng.choices(made, k=15)


def together(*work: Callable[[], None]) -> None:
    """Run these in threads of their own; the first error of any is raised here."""
    errors: list[BaseException] = []

    def run(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    if errors:
        raise errors[0]


def test_writers_at_the_same_time_leave_every_rollup_as_raw() -> None:
    fed, over = threading.Event(), threading.Event()

    def feed(seed: int) -> None:
        rng, waiting = random.Random(seed), arrivals(seed, many=150, hours=2)
        while waiting:
            cut = rng.randrange(1, 6)
            try:
                ingest.store(waiting[:cut], slot=seed, now=NOW)
            except OperationalError:  # a deadlock: the gateway tries the same batch again
                continue
            waiting = waiting[cut:]

    def compact() -> None:
        while not over.is_set():
            compaction.run(NOW, steps=5)

    def anew() -> None:
        while not fed.is_set():
            for hour in range(2):
                try:
                    recompute.marked_hour(FIRST + timedelta(hours=hour))
                    recompute.device_day(FIRST)
                except OperationalError:
                    continue

    def label() -> None:
        rng = random.Random(8)
        for _ in range(40):
            given = [
                Given(f"dev-{d}:1:{k}", rng.randrange(3), "person", NOW - timedelta(minutes=rng.randrange(9)))
                for d in range(4)
                for k in rng.choices(range(1000, 2500), k=20)
            ]
            labels.store(given, actor=Actor("user", "olga"), now=NOW)

    def feeding() -> None:
        together(*(lambda seed=seed: feed(seed) for seed in (1, 2)), label)
        fed.set()

    def working() -> None:
        together(feeding, anew)
        over.set()

    together(working, compact, compact)
    labels.join(now=NOW + timedelta(hours=1))
    verdict = verify(FIRST, FIRST + timedelta(days=3))
    assert verdict.differences == []
    assert Window.objects.count() > 100
    while compaction.run(NOW):
        pass
    assert verify(FIRST, FIRST + timedelta(days=3)).differences == []
    assert LiveBin.objects.filter(hour__lt=compaction.closed_until(NOW)).count() == 0
    assert Label.objects.filter(state="counted").exists()


_COMPACT = (
    "import django; django.setup()\n"
    "from datetime import datetime\n"
    "from fleet.telemetry import compaction\n"
    "now = datetime.fromisoformat({now!r})\n"
    "step = compaction.step\n"
    "done = 0\n"
    "while step(now):\n"
    "    done += 1\n"
    "    print(done, flush=True)\n"
)


def environment() -> dict[str, Any]:
    at = connection.settings_dict
    url = f"postgresql://{at['USER']}:{at['PASSWORD']}@{at['HOST']}:{at['PORT']}/{at['NAME']}"
    return {
        **os.environ,
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "fleet.settings",
        "FLEET_NO_DB_POOL": "1",
    }


def test_a_compactor_that_is_killed_leaves_whole_hours(now: datetime) -> None:
    for seed in (1, 2):
        ingest.store(arrivals(seed), slot=0, now=now)
    hours = 0
    while True:
        worker = subprocess.Popen(
            [sys.executable, "-c", _COMPACT.format(now=now.isoformat())],
            env=environment(), cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert worker.stdout is not None
        told = [line for _, line in zip(range(12), worker.stdout, strict=False)]
        worker.send_signal(signal.SIGKILL)
        worker.communicate(timeout=30)
        assert verify(FIRST, FIRST + timedelta(days=3)).differences == []
        if not told:
            break
        assert Hour.objects.count() >= hours
        hours = Hour.objects.count()
    assert hours > 20

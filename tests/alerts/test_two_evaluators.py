"""Two evaluators on two connections make one alert."""

import threading
from datetime import datetime, timedelta

import pytest
from django.db import connection

from fleet.accounts.audit import SYSTEM
from fleet.alerts import evaluation, rules
from fleet.alerts.models import Alert
from tests.alerts.planting import plant_devices, plant_events

pytestmark = pytest.mark.django_db(transaction=True)


def test_two_evaluators_at_once_open_one_alert_and_count_it_once(now: datetime) -> None:
    rules.create("loops", kind="crash_loop", actor=SYSTEM, now=now)
    (one,) = plant_devices(1, now)
    plant_events(one, now - timedelta(minutes=1), "boot", 3, "panic")
    for n in range(5):
        at = now + n * timedelta(minutes=1)
        barrier = threading.Barrier(2, timeout=20)
        outcomes: list[evaluation.Outcome] = []

        def work(
            at: datetime = at,
            barrier: threading.Barrier = barrier,
            outcomes: list[evaluation.Outcome] = outcomes,
        ) -> None:
            try:
                barrier.wait()
                outcomes.append(evaluation.run(at))  # without the lease: the writes decide
            finally:
                connection.close()

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sum(outcome.opened for outcome in outcomes) == (1 if n == 0 else 0)
        assert sum(outcome.problems for outcome in outcomes) == 0
        alert = Alert.objects.get()
        assert (alert.count, alert.events.count()) == (n + 1, 1)

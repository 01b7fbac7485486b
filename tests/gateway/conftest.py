"""Fixtures of the gateway's tests: a broker of their own, and jobs to move."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from fleet.gateway.source import READERS
from tests.stack.services import Broker, private_mosquitto


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory, settings: Any) -> Iterator[Broker]:
    """A private broker and the settings that lead to it."""
    with private_mosquitto(tmp_path_factory.mktemp("broker")) as running:
        env = running.env()
        settings.MQTT = {
            "host": env["FLEET_MQTT_HOST"],
            "port": running.port,
            "ca": env["FLEET_MQTT_CA"],
            "users_file": env["FLEET_MQTT_USERS_FILE"],
            "password_file": env["FLEET_MQTT_PASSWORD_FILE"],
            "pid_file": env["FLEET_MQTT_PID_FILE"],
        }
        yield running


@pytest.fixture
def make_job(db: None, now: datetime) -> Callable[..., Any]:
    """Factory of offered install jobs: `make_job("dev-1", target="ab" * 32, attempt=2, counter=7)`."""
    from ota.models import Artifact, Job, Manifest, MLModel, ModelVersion, Rollout, Wave

    def make(device_id: str, *, target: str, attempt: int, counter: int) -> Job:
        made = {"created_at": now, "created_by": "test"}
        model = MLModel.objects.create(name="kws", **made)
        artifact = Artifact.objects.create(sha256="0" * 64, size=1, data=b"x", created_at=now)
        version = ModelVersion.objects.create(model=model, version="1", artifact=artifact, **made)
        manifest = Manifest.objects.create(
            id=target, mid=target[:16], version=version, seq=1, floor=0, message=b"", leaves=b"", blob=b"",
            chunks=9, class_ids=[], kids=[], **made,
        )  # fmt: skip
        plan = {"waves": [{"percent": 100}]}
        rollout = Rollout.objects.create(
            name="r", manifest=manifest, plan=plan, salt=b"", state="running", **made
        )
        wave = Wave.objects.create(rollout=rollout, n=1, is_gated=False, state="open")
        return Job.objects.create(
            rollout=rollout, wave=wave, device_id=device_id, attempt=attempt, target=target, state="offered",
            counter=counter, created_at=now,
        )  # fmt: skip

    return make


@pytest.fixture
def moment() -> datetime:
    """The real time: a gateway process has no other."""
    return datetime.now(UTC)


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> str:
    """Each way of reading telemetry."""
    return str(request.param)

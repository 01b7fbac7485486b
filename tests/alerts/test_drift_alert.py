"""An offset in a tenth of a fleet raises a drift alert while confidence rises, and pauses the rollout."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from fleet.accounts.audit import SYSTEM, Actor
from fleet.accounts.models import AuditEvent
from fleet.alerts import evaluation, machine, pausing, rules
from fleet.alerts.models import Alert, Rule
from fleet.console import alert_words
from fleet.telemetry import judging
from ota import rollouts
from ota.errors import RolloutError
from ota.models import Job, Manifest, Rollout
from tests.alerts.planting import plant_devices
from tests.ota.conftest import installation as installation
from tests.ota.conftest import make_manifest as make_manifest
from tests.ota.world import World
from tests.telemetry.worn_fleet import QUARTER, send

pytestmark = pytest.mark.django_db
DEVICES = 40
OFFSET = "+ 1.5"
PLAN = {
    "waves": [{"percent": 90}, {"percent": 100}],
    "soak_s": 86_400,
    "max_soak_s": 2 * 86_400,
    "max_in_flight": 500,
}
OLGA = Actor("user", "olga")


@dataclass
class Scene:
    """A rollout that 36 of 40 devices were exposed to, which sent four clean sketches each of its model."""

    world: World
    rollout: Rollout
    old: Manifest
    new: Manifest
    exposed: list[str]

    def send(self, ids: list[str], *, fault: str = "none", is_old: bool = False) -> None:
        manifest = self.old if is_old else self.new
        mid, version = manifest.mid, manifest.version.version
        send(ids, self.world.now, windows=4, fault=fault, mid=mid, version=version, order=self.exposed)

    def evaluate(self) -> None:
        judging.judge(self.world.now)
        evaluation.evaluate(self.world.now)
        self.rollout.refresh_from_db()

    def hour(self) -> None:
        self.world.now += 4 * QUARTER


@pytest.fixture
def scene(now: datetime, make_manifest: Callable[..., Manifest]) -> Scene:
    rules.create("drift", kind="drift", action="pause", actor=SYSTEM, now=now)
    world = World(now, make_manifest)
    world.add(DEVICES)
    old, new = world.manifest(), world.manifest()
    rollout = world.tick(world.started(new, PLAN))
    Job.objects.filter(rollout=rollout).update(exposed_at=now)  # each is in its trial
    exposed = sorted(rollout.jobs.values_list("device_id", flat=True))
    assert len(exposed) == 36
    found = Scene(world, rollout, old, new, exposed)
    found.hour()
    found.send(exposed)
    found.evaluate()
    assert (Alert.objects.count(), rollout.state) == (0, "running")
    found.hour()
    return found


def offset_in_a_tenth(scene: Scene) -> Alert:
    """The fault, an hour of sketches, one evaluation; the alert of the part of the fleet."""
    scene.send(scene.exposed[4:])
    scene.send(scene.exposed[:4], fault=OFFSET)
    scene.evaluate()
    return Alert.objects.get(device_id="")


def test_an_offset_in_a_tenth_raises_one_alert_and_pauses_the_rollout(scene: Scene) -> None:
    alert = offset_in_a_tenth(scene)
    assert (alert.kind, alert.severity, alert.device_class) == ("drift", "critical", "host-a")
    assert (alert.mid, alert.evidence["devices"]) == (scene.new.mid, scene.exposed[:4])
    assert Alert.objects.filter(folded_into=alert, severity="warning").count() == 4
    assert Alert.objects.count() == 5
    e = alert.evidence
    assert e["statistics"] == {"input": 4, "class": 4, "distance": 4}
    assert e["confidence"] > e["confidence_usual"] + 0.01, "which says the opposite of what is true"
    assert (e["versions"], e["reference"]) == (1, "peers")
    assert datetime.fromisoformat(e["since"]) > scene.world.now - timedelta(hours=1)
    assert scene.rollout.state == "paused"
    row = AuditEvent.objects.get(verb="rollout.paused")
    assert (row.actor_kind, row.actor) == ("alert", str(alert.pk))
    assert "class host-a with activity" in row.reason
    assert [event.verb for event in alert.events.all()] == ["opened", "paused"]
    told = alert_words.sentence(alert)
    for part in (
        "fires for 4 of 36 devices",
        "the moments of the input (4 devices), the mix of classes (4 devices)",
        "its mean",
        "Mean confidence rose meanwhile, from",
        "No other version drifts",
        "Compared with each other",
    ):
        assert part in told


def test_evaluating_again_opens_nothing_new_and_pauses_nothing_twice(scene: Scene) -> None:
    offset_in_a_tenth(scene)
    scene.world.now += timedelta(minutes=1)
    scene.evaluate()
    assert Alert.objects.count() == 5
    assert AuditEvent.objects.filter(verb="rollout.paused").count() == 1
    assert set(Alert.objects.values_list("count", flat=True)) == {2}


def test_it_goes_on_only_when_somebody_acknowledged_the_alert(scene: Scene) -> None:
    alert = offset_in_a_tenth(scene)
    with pytest.raises(RolloutError) as caught:
        pausing.resume(scene.rollout, actor=OLGA, now=scene.world.now)
    assert caught.value.code == "evidence_not_current"
    scene.rollout.refresh_from_db()
    assert scene.rollout.state == "paused"
    machine.acknowledge(alert, actor=OLGA, now=scene.world.now, note="four straps were worn upside down")
    pausing.resume(scene.rollout, actor=OLGA, now=scene.world.now)
    scene.world.now += timedelta(minutes=1)
    scene.evaluate()
    assert scene.rollout.state == "running", "the same alert pauses once"


def test_one_broken_sensor_is_told_and_stops_no_rollout(scene: Scene) -> None:
    scene.send(scene.exposed[1:])
    scene.send(scene.exposed[:1], fault="channel 0 = 0")
    scene.evaluate()
    alert = Alert.objects.get()
    assert (alert.device_id, alert.severity) == (scene.exposed[0], "warning")
    assert (alert.evidence["channel"], alert.evidence["statistics"]) == (0, {"input": 1})
    assert "channel 0, its variance" in alert_words.sentence(alert)
    assert scene.rollout.state == "running"


def test_a_shift_of_several_versions_at_once_is_the_environment(scene: Scene, now: datetime) -> None:
    others = plant_devices(20, now)
    scene.send(others, is_old=True)
    scene.evaluate()
    scene.hour()
    scene.send(others[4:], is_old=True)
    scene.send(others[:4], fault=OFFSET, is_old=True)
    scene.send(scene.exposed[4:])
    scene.send(scene.exposed[:4], fault=OFFSET)
    scene.evaluate()
    found = {alert.mid: alert for alert in Alert.objects.filter(device_id="")}
    assert found.keys() == {scene.old.mid, scene.new.mid}
    assert {alert.evidence["versions"] for alert in found.values()} == {2}
    assert "2 versions drift at once" in alert_words.sentence(found[scene.old.mid])
    assert scene.rollout.state == "paused"
    assert found[scene.old.mid].acted_at is None, "no rollout brings the old version"


def test_it_ends_when_three_of_five_sketches_are_clean_again(scene: Scene) -> None:
    alert = offset_in_a_tenth(scene)
    scene.hour()
    scene.send(scene.exposed)
    for _ in range(3):
        scene.evaluate()
        scene.world.now += timedelta(minutes=1)
    alert.refresh_from_db()
    assert alert.state == "resolved"
    assert not Alert.objects.exclude(state="resolved").exists()
    scene.rollout.refresh_from_db()
    assert scene.rollout.state == "paused", "a person decides to go on"
    rollouts.state(scene.rollout, now=scene.world.now)
    pausing.resume(scene.rollout, actor=OLGA, now=scene.world.now)


def test_a_rule_without_the_action_pauses_nothing(scene: Scene) -> None:
    rule = Rule.objects.get(name="drift")
    rules.change(rule, actor=OLGA, now=scene.world.now, action="none")
    offset_in_a_tenth(scene)
    assert scene.rollout.state == "running"


def test_the_next_version_of_a_device_begins_without_a_past(scene: Scene) -> None:
    offset_in_a_tenth(scene)
    scene.hour()
    scene.send(scene.exposed[:4], is_old=True)
    scene.evaluate()
    assert not Alert.objects.exclude(device_id="").filter(evaluated_at=scene.world.now).exists()


def test_devices_that_fell_silent_neither_fire_nor_resolve(scene: Scene) -> None:
    alert = offset_in_a_tenth(scene)
    scene.world.now += timedelta(days=2)
    for _ in range(4):
        scene.evaluate()
        scene.world.now += timedelta(minutes=1)
    alert.refresh_from_db()
    assert (alert.state, alert.count) == ("open", 1)

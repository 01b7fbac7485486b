"""`manage.py rehearse`: a draft of this installation, in an installation of its own, on virtual devices."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from fleet.devices import classes
from fleet.devices.models import Device, DeviceSlot
from fleet.stack.paths import PROJECT_ROOT
from ota.models import Artifact, Job, Manifest, MLModel, ModelVersion, Rollout
from ota.plan import Plan
from tests.models.watch import watch_dir

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.django_db,
    pytest.mark.xdist_group("stack"),
    pytest.mark.timeout(1200),
]
NOW = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)
MADE = {"created_at": NOW, "created_by": "test"}
TARGETS = 400
PLAN = {
    "waves": [{"percent": 10}, {"percent": 100}],
    "control": {"percent": 10},
    "metrics": [
        {"metric": "accuracy", "kind": "proxy", "promote_margin": 0.25, "halt_margin": 0.0, "weight": 0.8},
        {"metric": "reporting", "promote_margin": 0.3, "halt_margin": 0.2, "weight": 0.2},
    ],
    "accept_proxy": True,
    "min_pairs": 20,
}


def released(version: str, file: str, seq: int) -> Manifest:
    """A version as a release left it; its signature is not looked at here."""
    data = (PROJECT_ROOT / "deploy" / "models" / f"{file}.tflite").read_bytes()
    evaluation = (watch_dir() / "activity-eval.npz").read_bytes()

    def stored(content: bytes) -> Artifact:
        digest = hashlib.sha256(content).hexdigest()
        made = {"size": len(content), "data": content, "created_at": NOW}
        return Artifact.objects.get_or_create(sha256=digest, defaults=made)[0]

    line, _ = MLModel.objects.get_or_create(name="activity", defaults=MADE)
    row = ModelVersion.objects.create(
        model=line,
        version=version,
        artifact=stored(data),
        evaluation=stored(evaluation),
        state="signed",
        **MADE,
    )
    digest = hashlib.sha256(version.encode()).hexdigest()
    return Manifest.objects.create(
        id=digest, mid=digest[:16], version=row, seq=seq, floor=0, message=b"", leaves=b"", blob=b"",
        chunks=9, class_ids=[], kids=[], **MADE,
    )  # fmt: skip


@pytest.fixture
def draft() -> Rollout:
    """activity 2.0.0 for 400 devices of two classes that run 1.0.0."""
    classes.ensure_default_classes(NOW)
    old, new = released("1.0.0", "activity-v1", 1), released("2.0.0", "activity-v2", 2)
    for number in range(TARGETS):
        device_class = "host-a" if number % 4 else "host-b"
        device = Device.objects.create(id=f"dev-{number:04d}", device_class_id=device_class, enrolled_at=NOW)
        DeviceSlot.objects.create(device=device, slot=0, state="confirmed", run=old.id16, updated_at=NOW)
    plan = Plan.parse(PLAN).to_json()
    return Rollout.objects.create(name="spring", manifest=new, plan=plan, salt=b"s", **MADE)


def rehearse(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """(exit status, what was told)."""
    out = tmp_path / "told.json"
    status = 0
    try:
        call_command(
            "rehearse", *arguments, "--data", str(watch_dir()), "--json", str(out), "--speed", "5000"
        )
    except SystemExit as end:
        status = int(end.code or 0)
    return status, json.loads(out.read_text())


def counted() -> dict[str, Any]:
    """What a rehearsal must leave as it is."""
    rows = (Rollout, Job, Manifest, ModelVersion, Device, DeviceSlot)
    return {row.__name__: sorted(map(_plain, row.objects.values_list())) for row in rows}


def _plain(values: tuple[Any, ...]) -> str:
    return repr([bytes(one) if isinstance(one, memoryview) else one for one in values])


def test_a_healthy_model_completes_and_nothing_here_is_touched(draft: Rollout, tmp_path: Path) -> None:
    before, folders, environment = (
        counted(),
        set(Path(tempfile.gettempdir()).glob("rehearsal-*")),
        dict(os.environ),
    )
    status, told = rehearse(tmp_path, "spring", "--scenario", "rehearsal-healthy", "--devices", "26")
    assert (status, told["ended"], told["is_completed"]) == (0, "completed", True), told["sentence"]
    assert (told["targets"], told["devices"], told["baseline"]) == (TARGETS, 26, "1.0.0")
    gated = told["waves"][0]
    assert gated["verdict"] == "pass"
    accuracy = next(row for row in gated["rows"] if row["rule"].startswith("quality:accuracy"))
    assert accuracy["pairs"] >= 8
    assert any(note.startswith("window_s: 21600 s -> 10 s") for note in told["scaling"])
    assert {fault["kind"] for fault in told["faults"]["faults"]} == {
        "power_cut",
        "lost_chunks",
        "flapping_wifi",
    }
    assert counted() == before
    assert set(Path(tempfile.gettempdir()).glob("rehearsal-*")) == folders
    assert dict(os.environ) == environment


def test_a_worse_model_is_taken_back_at_its_first_wave(draft: Rollout, tmp_path: Path) -> None:
    arguments = [str(draft.pk), "--scenario", "rehearsal-worse", "--devices", "20"]
    status, told = rehearse(tmp_path, *arguments)
    assert (status, told["ended"]) == (3, "rolled_back"), told["sentence"]
    assert told["waves"][0]["verdict"] == "fail"
    assert told["exposed"] == told["waves"][0]["size"] < told["devices"]
    assert told["would_expose"] == round(TARGETS * told["exposed"] / told["devices"])
    assert told["waves"][1]["state"] in ("pending", "cancelled")
    assert "stopped at wave 1" in told["sentence"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["summer", "--scenario", "rehearsal-worse"], "not_found"),
        (["spring"], "validation"),
        (["spring", "--scenario", "no-such-file"], "unreadable"),
        (["spring", "--scenario", "rehearsal-worse", "--devices", "9"], "too_small"),
        (["spring", "--scenario", "rehearsal-worse", "--speed", "0"], "validation"),
    ],
)
def test_wrong_use_is_told_before_anything_starts(draft: Rollout, arguments: list[str], code: str) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("rehearse", *arguments)
    assert caught.value.returncode == 2
    assert str(caught.value).startswith(code)

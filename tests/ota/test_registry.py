"""Uploads, stored verdicts, acknowledgements and releases, with real models in the real sandbox."""

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from fleet.accounts.audit import Actor
from fleet.accounts.models import AuditEvent
from fleet.devices.models import DeviceClass
from ota import examination, keys, registry, verdicts
from ota.choices import StagingState, VerdictKind, VersionState
from ota.errors import RegistryError
from ota.golden import seeded_rows
from ota.inspector import inspect
from ota.models import Artifact, ClassVerdict, Manifest, MLModel, ModelVersion, Rollout, Staging
from ota.probe import ProbeJob, run_probe
from ota.signing import manifest_id, verify_manifest
from ota.tensors import GoldenBlob, parse_golden_blob
from ota.transitions import IllegalTransition
from tests.models import make_models

pytestmark = pytest.mark.usefixtures("installation")

ACTIVITY = Path(__file__).resolve().parents[2] / "deploy" / "models" / "activity-v1.tflite"
DANA = Actor("user", "dana")


@pytest.fixture(scope="session")
def model() -> bytes:
    """A small int8 classifier that TFLM runs."""
    return ACTIVITY.read_bytes()


@pytest.fixture(scope="session")
def evaluation(model: bytes) -> bytes:
    """An evaluation set that the model gets right: labelled by its own answers."""
    inspection = inspect(model)
    rows = seeded_rows(inspection)
    outputs = run_probe(model, ProbeJob.of(inspection, rows, find_arena=False)).outputs
    x = np.stack([np.frombuffer(row, np.int8).reshape(inspection.inputs[0].shape[1:]) for row in rows])
    y = np.array([np.frombuffer(output, np.int8).argmax() for output in outputs])
    stream = io.BytesIO()
    np.savez(stream, x=x, y=y)
    return stream.getvalue()


def upload(data: bytes, now: Any, version: str = "1.0.0", **given: Any) -> ModelVersion:
    return registry.upload("activity", version, data, actor=DANA, now=now, **given)


def inspected(row: ModelVersion, now: Any) -> ModelVersion:
    assert registry.inspect_version(row.pk, now=now)
    row.refresh_from_db()
    return row


def refused(call: Any, *args: Any, **given: Any) -> RegistryError:
    with pytest.raises(RegistryError) as caught:
        call(*args, **given)
    return caught.value


@pytest.fixture
def fitting(model: bytes, evaluation: bytes, now: Any) -> ModelVersion:
    """A version that passes on the virtual classes."""
    return inspected(upload(model, now, evaluation=evaluation), now)


def test_an_upload_becomes_a_row_at_once(model: bytes, now: Any) -> None:
    row = upload(model, now, notes="first", declared_accuracy=0.9)
    assert row.state == VersionState.UPLOADED
    assert bytes(Artifact.objects.get(pk=row.artifact_id).data) == model
    assert MLModel.objects.get(pk="activity").created_by == "dana"
    event = AuditEvent.objects.get(verb="version.upload")
    assert (event.actor, event.after["sha256"]) == ("dana", row.artifact_id)


def test_the_same_bytes_or_the_same_version_name_the_row_that_exists(model: bytes, now: Any) -> None:
    upload(model, now)
    error = refused(upload, model, now, "2.0.0")
    assert (error.code, error.existing["version"]) == ("duplicate", "1.0.0")
    error = refused(upload, model + b"\0", now, "1.0.0")
    assert (error.code, error.existing["version"]) == ("duplicate", "1.0.0")
    assert ModelVersion.objects.count() == 1
    assert not Artifact.objects.exclude(pk=ModelVersion.objects.get().artifact_id).exists(), (
        "no orphan is left"
    )
    other = registry.upload("other", "1.0.0", model, actor=DANA, now=now)
    assert other.artifact_id == ModelVersion.objects.get(model_id="activity").artifact_id, "stored once"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"data": b""}, "media_type"),
        ({"data": b"TFL3"}, "media_type"),
        ({"version": "1 0"}, "validation"),
        ({"version": "x" * 25}, "validation"),
        ({"model_name": "Ümlaut"}, "validation"),
        ({"declared_accuracy": 1.5}, "validation"),
        ({"evaluation": b"not an archive"}, "media_type"),
        ({"hints": {"window": "long"}}, "validation"),
        ({"hints": {"colour": 3}}, "validation"),
        ({"hints": {"window": 10, "1": 11}}, "validation"),
        ({"hints": {"labels": "xyz"}}, "validation"),
        ({"hints": {"window": 50, "hop": 100}}, "io_contract"),
    ],
)
def test_what_cannot_become_a_row_is_refused_with_a_code(given: Any, code: str, now: Any) -> None:
    wanted: dict[str, Any] = {"model_name": "activity", "version": "1.0.0", "data": b"x" * 100} | given
    assert refused(registry.upload, **wanted, actor=DANA, now=now).code == code
    assert not ModelVersion.objects.exists()
    assert not Artifact.objects.exists()


def test_size_limits_hold_and_reading_stops_behind_them(now: Any, settings: Any) -> None:
    settings.MODEL_UPLOAD_BYTES, settings.EVALUATION_UPLOAD_BYTES = 1000, 2000
    assert refused(upload, b"x" * 1001, now).code == "too_large"
    assert refused(upload, b"x" * 1000, now, evaluation=b"PK" + b"x" * 1999).code == "too_large"
    stream = io.BytesIO(b"x" * 10_000)
    assert refused(registry.read_bounded, stream, 1000).code == "too_large"
    assert stream.tell() == 1001
    assert registry.read_bounded(io.BytesIO(b"x" * 1000), 1000) == b"x" * 1000


def test_hints_are_kept_by_number_and_read_back() -> None:
    stored = registry.plain_hints(
        {
            "window": 100,
            "hop": 50,
            "latency_budget_us": 20_000,
            "labels": "00" * 8,
            "7": [0, "ff" * 8],
            "15": "0102",
        }
    )
    assert stored == {"1": 100, "2": 50, "6": 20_000, "7": [0, "ff" * 8], "12": "00" * 8, "15": "0102"}
    hints = registry.hints_of(stored)
    assert (hints.window, hints.latency_budget_us, hints.labels) == (100, 20_000, bytes(8))
    assert (hints.front_end, hints.front_params) == ((0, b"\xff" * 8), b"\1\2")


def test_a_good_model_fits_and_has_one_verdict_per_class(fitting: ModelVersion) -> None:
    assert (fitting.state, fitting.code) == (VersionState.FITS, "")
    kinds = dict(ClassVerdict.objects.values_list("device_class_id", "kind"))
    assert set(kinds) == set(DeviceClass.objects.values_list("name", flat=True))
    assert kinds["host-a"] == kinds["host-b"] == VerdictKind.PASS
    assert kinds["esp32-4m"] == VerdictKind.UNPROVEN, "no board has measured the arena"
    assert fitting.probe["accuracy"]["ratio"] == 1.0
    assert fitting.inspection["sha256"] == fitting.artifact_id
    assert len(parse_golden_blob(bytes(fitting.golden))) >= 4
    assert all(row["is_current"] for row in registry.preflight_table(fitting))


def test_inspecting_twice_or_beside_a_running_inspection_does_nothing(
    fitting: ModelVersion, model: bytes, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not registry.inspect_version(fitting.pk, now=now)
    assert not registry.inspect_version(10**9, now=now)
    assert AuditEvent.objects.filter(verb="version.fits").count() == 1


def test_without_an_evaluation_set_a_model_is_unproven_until_someone_says_why(model: bytes, now: Any) -> None:
    row = inspected(upload(model, now), now)
    assert row.state == VersionState.UNPROVEN
    assert "evaluation set" in row.text
    with pytest.raises(IllegalTransition) as caught:
        registry.release(row, actor=DANA, now=now)
    assert caught.value.state == VersionState.UNPROVEN
    assert "acknowledge" in caught.value.allowed
    assert refused(registry.acknowledge, row, "host-a", reason=" ", actor=DANA, now=now).code == "validation"
    assert refused(registry.acknowledge, row, "host-z", reason="x", actor=DANA, now=now).code == "not_found"
    registry.acknowledge(row, "host-a", reason="measured on the bench", actor=DANA, now=now)
    with pytest.raises(IllegalTransition):
        registry.acknowledge(row, "host-a", reason="again", actor=DANA, now=now)
    event = AuditEvent.objects.get(verb="verdict.acknowledge")
    assert (event.reason, event.after["class"]) == ("measured on the bench", "host-a")
    manifest = registry.release(row, actor=DANA, now=now)
    assert manifest.class_ids == [DeviceClass.objects.get(pk="host-a").class_id], "and for no other class"


def test_an_accuracy_far_below_the_declared_one_is_refused(model: bytes, evaluation: bytes, now: Any) -> None:
    archive = np.load(io.BytesIO(evaluation))
    stream = io.BytesIO()
    np.savez(stream, x=archive["x"], y=(archive["y"] + 1) % 7)
    row = inspected(upload(model, now, evaluation=stream.getvalue(), declared_accuracy=0.9), now)
    assert (row.state, row.code) == (VersionState.REFUSED, "selftest_mismatch")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("crash-slice", "probe_crash"),
        ("crash-no-options", "schema"),
        ("hybrid", "hybrid"),
        ("truncated", "schema"),
        ("not-a-model", "not_tflite"),
    ],
)
def test_a_bad_file_keeps_its_row_with_the_verdict(name: str, code: str, now: Any) -> None:
    row = inspected(upload(make_models.MODELS[name].make(), now), now)
    assert (row.state, row.code) == (VersionState.REFUSED, code)
    assert row.text
    kinds = set(ClassVerdict.objects.filter(version=row).values_list("kind", "code"))
    assert kinds == {(VerdictKind.REFUSE.value, code)}
    with pytest.raises(IllegalTransition) as caught:
        registry.release(row, actor=DANA, now=now)
    assert (caught.value.state, caught.value.allowed) == (VersionState.REFUSED, ["inspect", "yank"])
    assert not Manifest.objects.exists()
    assert MLModel.objects.get(pk="activity").last_seq == 0, "a refused release uses up no seq"


def test_a_class_that_lacks_an_operator_is_left_out_of_the_release(now: Any) -> None:
    row = inspected(upload(make_models.MODELS["op-missing"].make(), now), now)
    verdict = ClassVerdict.objects.get(version=row, device_class_id="host-b")
    assert (verdict.kind, verdict.code) == (VerdictKind.REFUSE, "op_missing")
    registry.acknowledge(row, "host-a", reason="demo", actor=DANA, now=now)
    manifest = registry.release(row, actor=DANA, now=now)
    assert manifest.class_ids == [DeviceClass.objects.get(pk="host-a").class_id]
    assert (
        refused(registry.release, row, classes=["host-b"], resign=True, actor=DANA, now=now).code
        == "validation"
    )


def test_a_fault_of_our_own_is_stored_and_raised(
    model: bytes, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = upload(model, now)

    def broken(*args: Any, **given: Any) -> Any:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "examine", broken)
        with pytest.raises(RuntimeError):
            registry.inspect_version(row.pk, now=now)
    row.refresh_from_db()
    assert (row.state, row.code) == (VersionState.REFUSED, "internal")
    registry.request_inspection(row, actor=DANA, now=now)
    assert inspected(row, now).state == VersionState.UNPROVEN


def test_a_released_manifest_is_what_a_device_accepts(fitting: ModelVersion, model: bytes, now: Any) -> None:
    manifest = registry.release(fitting, actor=DANA, now=now)
    trust, _ = keys.current_trust()
    document = verify_manifest(bytes(manifest.message), trust, now_s=int(now.timestamp()))
    assert manifest_id(bytes(manifest.message)).hex() == manifest.pk
    assert (document.name, document.version, document.seq, document.floor) == ("activity", "1.0.0", 1, 0)
    assert document.sha256.hex() == fitting.artifact_id
    assert document.size == len(model)
    passed = ClassVerdict.objects.filter(kind=VerdictKind.PASS)
    assert {"host-a", "host-b"} <= set(passed.values_list("device_class_id", flat=True))
    assert {digest.hex() for digest in document.classes} == set(passed.values_list("class_id", flat=True))
    assert document.hints is not None
    assert (document.hints.head, document.hints.classes, document.hints.anomaly) == (1, 7, (3, 800))
    assert document.arena_bytes == max(passed.values_list("arena_bytes", flat=True))
    if isinstance(document.golden, GoldenBlob):
        assert len(bytes(manifest.blob)) == document.golden.size
    assert manifest.chunks == document.layout.total
    assert Staging.objects.get(manifest=manifest).state == StagingState.PENDING
    fitting.refresh_from_db()
    assert (fitting.state, fitting.released_at) == (VersionState.SIGNED, now)
    assert AuditEvent.objects.get(verb="version.release").after["seq"] == 1


def test_a_released_version_is_released_once_and_never_changes(fitting: ModelVersion, now: Any) -> None:
    manifest = registry.release(fitting, actor=DANA, now=now)
    with pytest.raises(IllegalTransition) as caught:
        registry.release(fitting, actor=DANA, now=now)
    assert caught.value.allowed == ["rollout", "yank"]
    before = ModelVersion.objects.filter(pk=fitting.pk).values().get()
    registry.request_inspection(fitting, actor=DANA, now=now)
    assert registry.inspect_version(fitting.pk, now=now + timedelta(hours=1))
    assert ModelVersion.objects.filter(pk=fitting.pk).values().get() == before
    assert ClassVerdict.objects.filter(version=fitting).first().at == now + timedelta(hours=1)
    again = registry.release(fitting, resign=True, actor=DANA, now=now)
    assert again.seq == manifest.seq + 1
    assert Manifest.objects.filter(version=fitting).count() == 2


def test_the_floor_is_at_most_the_manifests_own_seq(fitting: ModelVersion, now: Any) -> None:
    assert refused(registry.release, fitting, floor=2, actor=DANA, now=now).code == "validation"
    assert refused(registry.release, fitting, slot=4, actor=DANA, now=now).code == "validation"
    assert registry.release(fitting, floor=1, actor=DANA, now=now).floor == 1


def test_a_class_that_changed_since_it_was_judged_is_no_target(fitting: ModelVersion, now: Any) -> None:
    DeviceClass.objects.filter(pk="host-b").update(class_id="00" * 16)
    assert [row["is_current"] for row in registry.preflight_table(fitting) if row["class"] == "host-b"] == [
        False
    ]
    manifest = registry.release(fitting, actor=DANA, now=now)
    assert "00" * 16 not in manifest.class_ids


def test_an_acknowledgement_ends_when_more_is_missing(fitting: ModelVersion, model: bytes, now: Any) -> None:
    registry.acknowledge(fitting, "esp32-4m", reason="bench", actor=DANA, now=now)
    registry.request_inspection(fitting, actor=DANA, now=now)
    inspected(fitting, now)
    assert ClassVerdict.objects.get(version=fitting, device_class_id="esp32-4m").acknowledged_by == "dana"
    ModelVersion.objects.filter(pk=fitting.pk).update(evaluation=None)
    registry.request_inspection(fitting, actor=DANA, now=now)
    inspected(fitting, now)
    assert ClassVerdict.objects.get(version=fitting, device_class_id="esp32-4m").acknowledged_by == ""


def test_classes_share_a_manifest_only_while_each_has_the_arena_it_names(
    fitting: ModelVersion, now: Any
) -> None:
    ClassVerdict.objects.filter(device_class_id="host-a").update(arena_bytes=60_000)
    both = ["host-a", "host-b"]
    assert refused(registry.release, fitting, classes=both, actor=DANA, now=now).code == "validation"
    made = registry.release(fitting, actor=DANA, now=now)
    ids = dict(DeviceClass.objects.values_list("name", "class_id"))
    assert ids["host-b"] in made.class_ids
    assert ids["host-a"] not in made.class_ids, "60,000 bytes are more than host-b has"


def test_a_second_slot_needs_a_class_that_has_it(fitting: ModelVersion, now: Any) -> None:
    named = ["host-a"]
    assert refused(registry.release, fitting, slot=1, classes=named, actor=DANA, now=now).code == "validation"
    made = registry.release(fitting, slot=1, actor=DANA, now=now)
    ids = dict(DeviceClass.objects.values_list("name", "class_id"))
    assert made.slot == 1
    assert ids["host-a"] not in made.class_ids


def test_without_golden_vectors_nothing_is_signed(fitting: ModelVersion, now: Any) -> None:
    ModelVersion.objects.filter(pk=fitting.pk).update(golden=None)
    assert refused(registry.release, fitting, actor=DANA, now=now).code == "preflight_required"
    assert MLModel.objects.get(pk="activity").last_seq == 0


def test_a_yanked_version_is_out_of_choice_but_not_while_a_rollout_offers_it(
    fitting: ModelVersion, now: Any
) -> None:
    manifest = registry.release(fitting, actor=DANA, now=now)
    rollout = Rollout.objects.create(
        name="r", manifest=manifest, plan={}, salt=b"", created_by="dana", created_at=now, state="running"
    )
    error = refused(registry.yank, fitting, reason="bad", actor=DANA, now=now)
    assert (error.code, error.existing) == ("in_use", {"rollout": str(rollout.pk)})
    assert ModelVersion.objects.get(pk=fitting.pk).state == VersionState.SIGNED
    Rollout.objects.update(state="completed")
    registry.yank(fitting, reason="bad", actor=DANA, now=now)
    assert registry.allowed(fitting) == []
    for call in (
        lambda: registry.yank(fitting, reason="again", actor=DANA, now=now),
        lambda: registry.release(fitting, resign=True, actor=DANA, now=now),
        lambda: registry.request_inspection(fitting, actor=DANA, now=now),
    ):
        with pytest.raises(IllegalTransition) as caught:
            call()
        assert caught.value.state == VersionState.YANKED


def test_models_have_names_devices_can_hold(now: Any) -> None:
    registry.create_model("kws", "Keywords", actor=DANA, now=now)
    assert refused(registry.create_model, "kws", actor=DANA, now=now).code == "duplicate"
    assert refused(registry.create_model, "Kws!", actor=DANA, now=now).code == "validation"
    assert refused(registry.create_model, "k" * 33, actor=DANA, now=now).code == "validation"


def test_the_command_line_uploads_shows_and_releases(
    model: bytes, evaluation: bytes, tmp_path: Path, now: Any
) -> None:
    (tmp_path / "m.tflite").write_bytes(model)
    (tmp_path / "e.npz").write_bytes(evaluation)
    out = io.StringIO()
    file, archive = str(tmp_path / "m.tflite"), str(tmp_path / "e.npz")
    said = ["--version", "1.0.0", "--eval", archive, "--declared-accuracy", "1"]
    call_command("models", "upload", "activity", file, *said, stdout=out)
    assert "activity 1.0.0: fits" in out.getvalue()
    call_command("models", "release", "activity", "1.0.0", stdout=out)
    call_command("models", "list", stdout=out)
    call_command("models", "show", "activity", "1.0.0", stdout=out)
    assert Manifest.objects.get().pk in out.getvalue()
    for arguments, code in (
        (["release", "activity", "1.0.0"], "illegal_transition"),
        (["release", "activity", "9"], "not_found"),
        (["upload", "activity", file, "--version", "2"], "duplicate"),
        (["upload", "activity", str(tmp_path / "none"), "--version", "2"], "validation"),
    ):
        with pytest.raises(CommandError, match=code):
            call_command("models", *arguments, stdout=out)


def test_a_machine_without_tflm_leaves_a_model_unproven(
    model: bytes, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ota.probe import ProbeError

    def absent(*args: Any, **given: Any) -> Any:
        raise ProbeError("unavailable", "TFLM is not installed here")

    monkeypatch.setattr(examination, "run_probe", absent)
    row = inspected(upload(model, now), now)
    assert row.state == VersionState.UNPROVEN
    registry.acknowledge(row, "host-a", reason="trust me", actor=DANA, now=now)
    assert refused(registry.release, row, actor=DANA, now=now).code == "preflight_required"

"""Models and versions over REST: real uploads, stored verdicts, acknowledgement, release, yank."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from ota import registry
from ota.models import Artifact, Manifest, ModelVersion, Staging
from tests.api.conftest import Caller, clock

pytestmark = pytest.mark.usefixtures("installation")
ROOT = Path(__file__).resolve().parents[2]
ACTIVITY = (ROOT / "deploy" / "models" / "activity-v1.tflite").read_bytes()
V1 = "/models/activity/versions/1.0.0"


def inspected(call: Caller, path: str = V1) -> Any:
    """Do the worker's part; the version as the API then shows it."""
    row = ModelVersion.objects.get(version=path.rsplit("/", 1)[1])
    assert registry.inspect_version(row.pk, now=clock())
    return call("GET", path).json()


@pytest.fixture
def uploaded(call: Caller) -> Any:
    """activity 1.0.0, not inspected yet."""
    assert call("POST", "/models", {"name": "activity", "description": "Movements"}).status_code == 201
    answer = call.upload("activity", ACTIVITY, {"version": "1.0.0", "declared_accuracy": 0.9})
    assert answer.status_code == 202, answer.json()
    return answer


def evaluation(rows: int) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, x=np.zeros((rows, 100, 6), np.int8), y=np.zeros(rows, np.int64))
    return stream.getvalue()


def test_model_lines(call: Caller) -> None:
    made = call("POST", "/models", {"name": "kws", "description": "Keywords"})
    assert made.status_code == 201
    assert (
        made.json() | {"name": "kws", "last_seq": 0, "created_by": made.json()["created_by"]} == made.json()
    )
    assert made.json()["created_by"].startswith("admin/")
    assert call("GET", "/models/kws").json() == made.json()
    assert call("GET", "/models").json() == {"items": [made.json()], "next": None}
    again = call("POST", "/models", {"name": "kws"})
    assert (again.status_code, again.json()["code"]) == (409, "duplicate")
    assert again.json()["existing"] == {"model": "kws"}
    for name in ("Kws", "", "k" * 33, "-k"):
        assert call("POST", "/models", {"name": name}).json()["code"] == "validation"


def test_an_upload_is_a_row_at_once_and_says_where(uploaded: Any, call: Caller) -> None:
    version = uploaded.json()
    assert uploaded["Location"] == f"/api/v1{V1}"
    assert (version["state"], version["size"]) == ("uploaded", len(ACTIVITY))
    assert (version["declared_accuracy"], version["verdicts"]) == (0.9, [])
    assert (version["manifest"], version["staging"], version["inspection"]) == (None, None, None)
    assert call("GET", V1).json() == version
    (listed,) = call("GET", "/models/activity/versions").json()["items"]
    assert listed["version"] == "1.0.0"
    assert "inspection" not in listed


def test_a_list_of_versions_costs_the_same_with_many_and_reads_no_file(uploaded: Any, call: Caller) -> None:
    """A file may have 16 MiB, and a page 500 versions."""
    first = ModelVersion.objects.get(version="1.0.0")
    costs = []
    for n in (1, 30):
        for i in range(n):
            digest = f"{n:02x}{i:062x}"
            Artifact.objects.create(sha256=digest, size=1, data=b"x", created_at=clock())
            version = ModelVersion.objects.create(
                model=first.model,
                version=f"2.{n}.{i}",
                artifact_id=digest,
                parent=first,
                created_at=clock(),
                created_by="admin",
            )
            made = Manifest.objects.create(
                id=digest,
                mid=f"{n:02x}{i:014x}",
                version=version,
                seq=i,
                floor=0,
                message=b"m",
                leaves=b"",
                blob=b"",
                chunks=3,
                class_ids=[],
                kids=[],
                created_at=clock(),
                created_by="admin",
            )
            Staging.objects.create(manifest=made, state="staged", published=3)
        with CaptureQueriesContext(connection) as seen:
            items = call("GET", "/models/activity/versions").json()["items"]
        costs.append(len(seen))
        assert not [one["sql"] for one in seen if re.search('"(data|leaves|golden)"', one["sql"])]
    assert len(items) == 32
    assert (items[0]["version"], items[0]["parent"]) == ("2.30.29", "1.0.0")
    assert (items[0]["manifest"]["seq"], items[0]["staging"]["state"]) == (29, "staged")
    assert (items[-1]["version"], items[-1]["manifest"], items[-1]["staging"]) == ("1.0.0", None, None)
    assert costs[0] == costs[1], costs


def test_a_version_is_judged_acknowledged_signed_and_taken_back(uploaded: Any, call: Caller) -> None:
    version = inspected(call)
    assert version["state"] == "unproven", "no evaluation set"
    kinds = {row["class"]: row["kind"] for row in version["verdicts"]}
    assert kinds["host-a"] == "unproven"
    assert version["inspection"]["sha256"] == version["sha256"]
    assert version["probe"]
    early = call("POST", f"{V1}/release", {"slot": 0})
    assert (early.status_code, early.json()["code"]) == (409, "illegal_transition")
    assert early.json()["state"] == "unproven"
    assert "acknowledge" in early.json()["allowed"]

    said = call("POST", f"{V1}/acknowledge", {"class": "host-a", "reason": "measured on the bench"})
    assert said.status_code == 200
    (mine,) = [row for row in said.json()["verdicts"] if row["class"] == "host-a"]
    assert mine["acknowledged_reason"] == "measured on the bench"
    assert mine["acknowledged_by"].startswith("admin/")
    twice = call("POST", f"{V1}/acknowledge", {"class": "host-a", "reason": "again"})
    assert twice.json()["code"] == "illegal_transition"
    assert call("POST", f"{V1}/acknowledge", {"class": "none", "reason": "why not"}).status_code == 404

    signed = call("POST", f"{V1}/release", {"slot": 0})
    assert signed.status_code == 201, signed.json()
    manifest = signed.json()
    assert (manifest["seq"], manifest["floor"], manifest["slot"]) == (1, 0, 0)
    assert manifest["mid"] == manifest["id"][:16]
    version = call("GET", V1).json()
    assert (version["state"], version["manifest"]) == ("signed", manifest)
    assert version["staging"] | {"state": "pending", "chunks": manifest["chunks"]} == version["staging"]
    again = call("POST", f"{V1}/release", {})
    assert (again.status_code, again.json()["allowed"]) == (409, ["rollout", "yank"])

    assert call("POST", f"{V1}/yank", {"reason": "a better one exists"}).json()["state"] == "yanked"
    for verb, body in (("yank", {"reason": "twice"}), ("preflight", None), ("release", {})):
        gone = call("POST", f"{V1}/{verb}", body)
        assert (gone.status_code, gone.json()["state"], gone.json()["allowed"]) == (409, "yanked", [])
    trail = call("GET", f"/audit?subject_kind=version&subject_id={version['id']}").json()["items"]
    assert [row["verb"] for row in trail] == [
        "version.yank", "version.release", "verdict.acknowledge", "version.unproven", "version.upload",
    ]  # fmt: skip


def test_an_evaluation_set_goes_with_the_upload(call: Caller) -> None:
    answer = call.upload("activity", ACTIVITY, {"version": "1.0.0"}, evaluation=evaluation(3))
    assert answer.status_code == 404, "the model line has to be made first"
    call("POST", "/models", {"name": "activity"})
    answer = call.upload("activity", ACTIVITY, {"version": "1.0.0"}, evaluation=evaluation(3))
    assert answer.json()["has_evaluation"] is True
    answer = call.upload("activity", ACTIVITY + b"\0", {"version": "2"}, evaluation=b"x,y\n1,2\n")
    assert (answer.status_code, answer.json()["code"]) == (415, "media_type")


def test_a_parent_is_a_version_of_the_same_model(uploaded: Any, call: Caller) -> None:
    child = call.upload("activity", ACTIVITY + b"\0", {"version": "1.1.0", "parent": "1.0.0"})
    assert child.json()["parent"] == "1.0.0"
    orphan = call.upload("activity", ACTIVITY + b"\0\0", {"version": "1.2.0", "parent": "0.9"})
    assert orphan.status_code == 404


def test_a_refused_file_keeps_its_row_and_is_never_signed(call: Caller) -> None:
    call("POST", "/models", {"name": "activity"})
    call.upload("activity", b"this is no FlatBuffer at all", {"version": "1.0.0"})
    version = inspected(call)
    assert (version["state"], version["code"]) == ("refused", "not_tflite")
    assert version["text"]
    assert {row["kind"] for row in version["verdicts"]} == {"refuse"}
    answer = call("POST", f"{V1}/release", {})
    assert (answer.status_code, answer.json()["state"]) == (409, "refused")
    assert not Manifest.objects.exists()
    again = call("POST", f"{V1}/preflight")
    assert (again.status_code, again.json()["state"]) == (202, "uploaded")
    assert again["Location"] == f"/api/v1{V1}"


def test_the_same_bytes_or_name_are_a_duplicate(uploaded: Any, call: Caller) -> None:
    for file, version in ((ACTIVITY, "2.0.0"), (ACTIVITY + b"\0", "1.0.0")):
        answer = call.upload("activity", file, {"version": version})
        assert (answer.status_code, answer.json()["code"]) == (409, "duplicate")
        assert answer.json()["existing"] == {"model": "activity", "version": "1.0.0", "state": "uploaded"}


def test_files_over_the_limit_are_refused(call: Caller, settings: Any) -> None:
    call("POST", "/models", {"name": "activity"})
    settings.MODEL_UPLOAD_BYTES, settings.EVALUATION_UPLOAD_BYTES = 1000, 2000
    for file, archive in ((b"x" * 1001, None), (b"x" * 1000, b"PK" + b"x" * 1999), (b"x" * 200_000, None)):
        answer = call.upload("activity", file, {"version": "1"}, evaluation=archive)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert answer.json()["limit"] > 0
    assert not Artifact.objects.exists()
    assert call.upload("activity", b"x" * 1000, {"version": "1"}).status_code == 202


@pytest.mark.parametrize(
    ("meta", "status", "code", "pointer"),
    [
        ("{", 400, "malformed_json", None),
        ("[" * 16_000, 400, "malformed_json", None),
        ("[]", 422, "validation", "/meta/"),
        ({}, 422, "validation", "/meta/version"),
        ({"version": "1 0"}, 422, "validation", "/meta/version"),
        ({"version": "x" * 25}, 422, "validation", "/meta/version"),
        ({"version": "1", "declared_accuracy": 1.01}, 422, "validation", "/meta/declared_accuracy"),
        ({"version": "1", "declared_accuracy": float("nan")}, 422, "validation", "/meta/declared_accuracy"),
        ({"version": "1", "colour": "red"}, 422, "validation", "/meta/colour"),
        ({"version": "1", "hints": {"window": "long"}}, 422, "validation", None),
        ({"version": "1", "hints": {"window": float("nan")}}, 422, "validation", None),
        ({"version": "1", "hints": {"colour": 1}}, 422, "validation", None),
        ({"version": "1", "hints": {"window": 50, "hop": 100}}, 422, "io_contract", None),
        ({"version": "1", "notes": "a\0b"}, 422, "validation", None),
        ("x" * 16_385, 422, "validation", None),
    ],
)
def test_meta_that_cannot_be_is_refused_with_its_place(
    call: Caller, meta: Any, status: int, code: str, pointer: str | None
) -> None:
    call("POST", "/models", {"name": "activity"})
    answer = call.upload("activity", ACTIVITY, meta)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.json()
    if pointer is not None:
        assert [entry["pointer"] for entry in answer.json()["errors"]] == [pointer]
    assert not ModelVersion.objects.exists()


def test_an_upload_without_a_file_or_with_an_empty_one(call: Caller) -> None:
    call("POST", "/models", {"name": "activity"})
    assert call.upload("activity", None, {"version": "1"}).json()["errors"][0]["pointer"] == "/file"
    answer = call.upload("activity", b"TFL3", {"version": "1"})
    assert (answer.status_code, answer.json()["code"]) == (415, "media_type")


def test_unknown_models_and_versions_are_404(call: Caller) -> None:
    assert call.upload("none", ACTIVITY, {"version": "1"}).status_code == 404
    call("POST", "/models", {"name": "kws"})
    for method, path, body in (
        ("GET", "/models/none", None),
        ("GET", "/models/none/versions", None),
        ("GET", "/models/kws/versions/1", None),
        ("POST", "/models/kws/versions/1/release", {}),
        ("POST", "/models/kws/versions/1/preflight", None),
        ("POST", "/models/kws/versions/1/yank", {"reason": "why not"}),
    ):
        assert call(method, path, body).status_code == 404, path


def test_without_keys_nothing_can_be_signed_and_it_says_so(
    call: Caller, uploaded: Any, settings: Any
) -> None:
    inspected(call)
    call("POST", f"{V1}/acknowledge", {"class": "host-a", "reason": "bench"})
    settings.KEY_PASSPHRASE = ""
    answer = call("POST", f"{V1}/release", {})
    assert (answer.status_code, answer.json()["code"]) == (503, "passphrase_missing")

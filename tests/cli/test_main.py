"""The `tinyfleet` command against a running server: what it prints, and how it ends."""

import csv
import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.test import Client
from django.utils import timezone

from fleet.accounts import tokens
from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import Role, User
from fleet.accounts.scopes import scopes_of
from fleet.cli import connection, exits
from fleet.cli.main import main
from fleet.cli.users import ROLES
from fleet.devices import groups
from fleet.devices.models import Device, DeviceEvent, Presence
from fleet.telemetry import ingest
from fleet.telemetry.ingest import Delivery
from ota.models import Manifest
from tests.devices.makers import make_board
from tests.ota.conftest import installation as installation
from tests.ota.conftest import make_manifest as make_manifest
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db(transaction=True)
MODELS = Path(__file__).parent.parent.parent / "deploy" / "models"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    live_server: Any,
    make_user: Callable[..., User],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Run a command as an administrator: (exit status, output, errors)."""
    owner = make_user("admin")
    _, text = tokens.issue(owner, "cli", scopes_of(owner), actor=SYSTEM, now=timezone.now())
    monkeypatch.setenv(connection.URL, live_server.url)
    monkeypatch.setenv(connection.TOKEN, text)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def call(*words: str) -> tuple[int, str, str]:
        status = main(words)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_devices_are_listed_shown_and_quarantined(run: Run) -> None:
    now = timezone.now()
    make_board("dev-1", now)
    make_board("dev-2", now)
    status, out, _ = run("devices", "list")
    assert status == exits.OK
    assert [line.split()[0] for line in out.splitlines()] == ["ID", "dev-1", "dev-2"]
    status, out, _ = run("--format", "json", "devices", "list", "-q", "id==dev-2")
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["dev-2"]
    status, out, _ = run("devices", "quarantine", "dev-1", "--reason", "smokes")
    assert status == exits.OK
    assert "smokes" in out
    assert Device.objects.get(pk="dev-1").quarantined_at is not None


def test_a_device_that_never_spoke_is_found_by_its_presence(run: Run) -> None:
    make_board("dev-1", timezone.now())
    for presence in Presence.values:
        status, out, _ = run("--format", "csv", "devices", "list", "--presence", presence)
        assert status == exits.OK, "the command knows every presence that there is"
        assert ("dev-1" in out) == (presence == Presence.NEVER_SEEN)


def test_an_empty_fleet_says_what_to_do_next(run: Run) -> None:
    assert "enrol one" in run("devices", "list")[1]
    assert run("--format", "json", "devices", "list")[1] == ""


def test_a_refusal_ends_with_1_its_code_and_the_field(run: Run) -> None:
    status, out, err = run("devices", "list", "-q", "id==")
    assert (status, out) == (exits.REFUSED, "")
    assert "query_syntax" in err
    status, _, err = run("models", "create", "No Good")
    assert status == exits.REFUSED
    assert "validation" in err
    assert "/name" in err


def test_a_file_is_inspected_on_this_machine(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("models", "inspect", str(MODELS / "activity-v1.tflite"))
    assert status == exits.OK
    assert "3 CONV_2D" in out
    wrong = tmp_path / "a.tflite"
    wrong.write_bytes(b"not a model")
    status, _, err = run("models", "inspect", str(wrong))
    assert status == exits.ENDED_BADLY
    assert "not_tflite" in err
    assert run("models", "inspect", "/no/such/file")[0] == exits.USAGE


def test_a_model_is_uploaded_and_listed(run: Run, installation: bytes) -> None:
    assert run("models", "create", "kws", "--description", "words")[0] == exits.OK
    file = str(MODELS / "activity-v1.tflite")
    status, out, _ = run("models", "upload", "kws", "1.0.0", file, "--accuracy", "0.9", "--no-wait")
    assert status == exits.OK
    assert "uploaded" in out
    assert run("models", "upload", "kws", "1.0.0", file, "--no-wait")[0] == exits.REFUSED
    assert "1.0.0" in run("models", "list", "kws")[1]
    other = str(MODELS / "activity-v2.tflite")
    status, _, err = run("models", "upload", "kws", "1.0.1", other, "--timeout", "0")
    assert status == exits.TIMED_OUT
    assert "last seen: uploaded" in err


def test_a_rollout_is_previewed_drafted_submitted_and_ended(
    run: Run, make_manifest: Callable[..., Manifest]
) -> None:
    now = timezone.now()
    make_board("dev-1", now)
    version = make_manifest().version
    draft = ("first", version.model_id, version.version, "--waves", "1,100%")
    status, out, _ = run("--format", "json", "rollouts", "preview", *draft)
    assert status == exits.OK
    assert json.loads(out)
    status, out, _ = run("--format", "json", "rollouts", "create", *draft)
    made = json.loads(out)
    assert (made["state"], made["plan"]["waves"]) == ("draft", [{"count": 1}, {"percent": 100.0}])
    assert "first" in run("rollouts", "list")[1]
    status, _, err = run("rollouts", "pause", made["id"], "--reason", "no")
    assert status == exits.REFUSED
    assert "possible now:" in err
    assert run("rollouts", "cancel", made["id"])[0] == exits.OK
    status, _, err = run("rollouts", "watch", made["id"])
    assert status == exits.ENDED_BADLY
    assert "cancelled" in err


@pytest.mark.parametrize(
    "words",
    [
        ("rollouts", "create", "n", "m", "1"),
        ("rollouts", "create", "n", "m", "1", "--waves", "ten"),
        ("rollouts", "create", "n", "m", "1", "--plan", "/no/such/file"),
        ("telemetry", "query", "accuracy", "--from", "yesterday"),
        ("telemetry", "query", "accuracy", "--from", "2026-01-01T00:00:00"),
        ("telemetry", "query", "accuracy", "--step", "1 hour"),
    ],
)
def test_wrong_usage_ends_with_2_before_anything_is_asked(run: Run, words: tuple[str, ...]) -> None:
    status, out, err = run(*words)
    assert (status, out) == (exits.USAGE, "")
    assert err.startswith("tinyfleet: ")


def test_telemetry_comes_as_a_line_a_series_and_time(run: Run) -> None:
    now = timezone.now()
    board = make_board("dev-1", now)
    batch = make_batch(now - timedelta(minutes=30), 3)
    ingest.store([Delivery(board.id, batch)], slot=0, now=now)
    words = ("telemetry", "query", "accuracy", "--kind", "proxy", "--by", "version", "--from", "2h")
    status, out, _ = run("--format", "csv", *words)
    assert status == exits.OK
    found = [row for row in csv.DictReader(io.StringIO(out)) if row["N"] != "0"]
    assert {(row["VERSION"], row["VALUE"], row["N"]) for row in found} == {("1.0.0", "0.8", "30")}
    status, _, err = run("telemetry", "query", "luck")
    assert status == exits.REFUSED
    assert "unknown_metric" in err


def test_a_token_is_made_and_ended(run: Run) -> None:
    status, out, _ = run("--format", "json", "tokens", "create", "ci", "--scope", "devices:read")
    made = json.loads(out)
    assert (status, made["scopes"]) == (exits.OK, ["devices:read"])
    status, out, _ = run("--format", "json", "tokens", "rotate", made["id"], "--grace-hours", "2")
    new = json.loads(out)
    assert (status, new["id"]) == (exits.OK, made["id"])
    assert new["token"] != made["token"]
    assert new["former_secret_until"]
    assert run("tokens", "revoke", made["id"])[0] == exits.OK
    status, _, err = run("tokens", "rotate", made["id"])
    assert status == exits.REFUSED
    assert "illegal_transition" in err
    assert made["token"] not in run("tokens", "list")[1]


def test_a_list_comes_in_the_order_that_is_asked_for(run: Run) -> None:
    now = timezone.now()
    for name in ("dev-1", "dev-2"):
        make_board(name, now)
    out = run("--format", "csv", "devices", "list", "--sort=-id")[1]
    assert [line.split(",")[0] for line in out.splitlines()] == ["ID", "dev-2", "dev-1"]
    status, out, err = run("devices", "list", "--sort", "colour")
    assert (status, out) == (exits.REFUSED, "")
    assert "query_unknown_field" in err
    assert "possible now: id, enrolled_at, firmware, last_seen_at" in err
    for words in (("models", "list"), ("rollouts", "list"), ("tokens", "list"), ("users", "list")):
        assert run(*words, "--sort=-created_at")[0] == exits.OK, words


def test_a_person_is_invited_changed_and_kept_out(
    run: Run, make_user: Callable[..., User], client: Client
) -> None:
    make_user("viewer")
    groups.create("line-2", kind="static", actor=SYSTEM, now=timezone.now())
    status, out, _ = run("--format", "json", "users", "invite", "operator", "--group", "line-2")
    made = json.loads(out)
    assert (status, made["role"], made["groups"]) == (exits.OK, "operator", ["line-2"])
    path = "/invitation/" + made["link"].rpartition("/invitation/")[2]
    assert made["link"].startswith("http://")
    assert client.get(path, follow=True).status_code == 200, "the link opens something"
    waiting = run("users", "invitations")[1]
    assert made["id"] in waiting
    assert path not in waiting
    assert run("users", "uninvite", made["id"])[0] == exits.OK
    assert client.get(path, follow=True).status_code == 404
    out = run("--format", "csv", "users", "list", "--sort=role")[1]
    assert [line.split(",")[:2] for line in out.splitlines()[1:]] == [
        ["viewer", "viewer"],
        ["admin", "admin"],
    ]
    status, out, _ = run("users", "change", "viewer", "--role", "approver", "--group", "line-2")
    assert status == exits.OK
    assert "approver" in out
    assert "line-2" in run("users", "show", "viewer")[1]
    assert "line-2" not in run("users", "change", "viewer", "--all-devices")[1]
    assert User.objects.get(username="viewer").group_limit is None
    for verb, is_active in (("disable", False), ("enable", True)):
        assert run("users", verb, "viewer")[0] == exits.OK
        assert User.objects.get(username="viewer").is_active is is_active
    status, _, err = run("users", "disable", "admin")
    assert (status, "in_use" in err) == (exits.REFUSED, True)
    assert run("users", "show", "nobody")[0] == exits.REFUSED
    assert run("users", "change", "viewer")[0] == exits.USAGE


def test_the_command_knows_every_role(run: Run) -> None:
    assert list(ROLES) == Role.values


def test_a_token_for_another_network_is_made_and_is_no_good_here(run: Run, live_server: Any) -> None:
    words = ("tokens", "create", "far", "--scope", "devices:read", "--network", "198.51.100.0/24")
    made = json.loads(run("--format", "json", *words)[1])
    assert made["networks"] == ["198.51.100.0/24"]
    bearer = {"Authorization": f"Bearer {made['token']}"}
    answer = httpx.get(f"{live_server.url}/api/v1/devices", headers=bearer)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")


def test_a_login_is_kept_for_its_owner_only_and_checked(
    run: Run, live_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    text = os.environ[connection.TOKEN]
    monkeypatch.delenv(connection.URL)
    monkeypatch.delenv(connection.TOKEN)
    assert run("models", "list")[0] == exits.USAGE
    monkeypatch.setattr("sys.stdin", io.StringIO("tfk_wrong_token\n"))
    status, _, err = run("login", live_server.url)
    assert status == exits.REFUSED
    assert "token_invalid" in err
    assert not connection.login_file().exists()
    monkeypatch.setattr("sys.stdin", io.StringIO(text + "\n"))
    assert run("login", live_server.url)[0] == exits.OK
    assert connection.login_file().stat().st_mode & 0o777 == 0o600
    assert run("models", "list")[0] == exits.OK


def test_a_name_that_moves_the_cursor_is_shown_harmless(run: Run) -> None:
    make_board("dev-1", timezone.now())
    DeviceEvent.objects.create(device_id="dev-1", at=timezone.now(), kind="note", text="a\x1b[2Jb")
    out = run("devices", "events", "dev-1")[1]
    assert "\x1b" not in out
    assert "a�[2Jb" in out


def test_a_reason_that_moves_the_cursor_is_told_harmless(
    run: Run, make_manifest: Callable[..., Manifest]
) -> None:
    make_board("dev-1", timezone.now())
    version = make_manifest().version
    draft = ("a\x1b[2Jb", version.model_id, version.version, "--waves", "100%")
    made = json.loads(run("--format", "json", "rollouts", "create", *draft)[1])
    assert run("rollouts", "cancel", made["id"])[0] == exits.OK
    status, out, err = run("rollouts", "watch", made["id"])
    assert status == exits.ENDED_BADLY
    assert "\x1b" not in out + err
    assert "a�[2Jb is cancelled" in err


def test_nobody_there_ends_with_3(run: Run) -> None:
    assert run("--url", "http://127.0.0.1:9", "models", "list")[0] == exits.UNREACHABLE

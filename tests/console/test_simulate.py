"""`manage.py simulate`: what it checks before it starts anything, and how it says no."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from fleet.stack.ports import LOOPBACK, free_port


def test_check_lists_the_single_faults_and_touches_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("simulate", "--check", "--devices", "40", "--seed", "3")
    first = capsys.readouterr().out
    lines = first.splitlines()
    assert len(lines) > 5
    assert all(re.match(r" +\d+\.\d s  field-failures-00\d\d  [a-z_]+ ", line) for line in lines)
    call_command("simulate", "--check", "--devices", "40", "--seed", "3")
    assert capsys.readouterr().out == first
    call_command("simulate", "--check", "--devices", "40", "--seed", "4")
    assert capsys.readouterr().out != first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = 3\ndevices = 1", "bad_value: name"),
        ('name = "a"\ndevices = 1\ncolour = 2', "unknown_key: colour"),
        (
            'name = "a"\ndevices = 1\n[[fault]]\nkind = "panic"\ncount = 1\nper_hour = -1',
            r"fault\[0\].per_hour",
        ),
        ('name = "a"\ndevices = 2\n[[fault]]\nkind = "panic"\nnames = ["a-0002"]', "no device is a-0002"),
        ("name = = 1", "syntax: .*line 1"),
    ],
)
def test_a_bad_scenario_is_refused_by_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(CommandError, match=said):
        call_command("simulate", str(path))


def test_numbers_out_of_bounds_and_files_that_are_not_there(tmp_path: Path) -> None:
    for arguments, said in (
        (("--devices", "0"), "bad_value: devices"),
        (("--duration", "-1"), "bad_value: duration_s"),
        (("--seed", "-1"), "bad_value: seed"),
        ((str(tmp_path / "none.toml"),), "unreadable"),
        (("nosuch",), "unreadable"),
    ):
        with pytest.raises(CommandError, match=said):
            call_command("simulate", *arguments)


def test_without_an_installation_it_says_how_to_start_one(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLEET_WEB_CA", raising=False)
    settings.PUBLIC_URL = f"http://{LOOPBACK}:{free_port()}"
    with pytest.raises(CommandError, match=r"no_installation: .*manage.py dev"):
        call_command("simulate", "everything", "--dir", str(tmp_path / "devices"))
    assert not (tmp_path / "devices").exists(), "nothing was begun"
    monkeypatch.setenv("FLEET_WEB_CA", str(tmp_path / "none.pem"))
    with pytest.raises(CommandError, match="no_installation"):
        call_command("simulate", "everything", "--dir", str(tmp_path / "devices"))

"""Scenario files: what is refused and where, and that a run follows from seed and devices alone."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_firmware.host import scenario as scenarios
from device_firmware.host.faults import KINDS, Fault, Lasting
from device_firmware.host.scenario import Scenario, ScenarioError, parse, read
from device_firmware.host.scenario_kinds import FACES, FAULTS

HEAD = 'name = "attic"\ndevices = 20\n'


def ids(scenario: Scenario) -> list[str]:
    return [f"{scenario.name}-{number:04d}" for number in range(scenario.devices)]


def one(text: str, **changes: Any) -> Scenario:
    return parse(f"{HEAD}seed = 5\nduration_s = 600\n[[fault]]\n{text}").changed(**changes)


@pytest.mark.parametrize(
    ("text", "code", "where"),
    [
        ("name = ", "syntax", ""),
        ('name = "a"\nname = "b"', "syntax", ""),
        ("devices = 3", "missing_key", "name"),
        ('name = "attic"', "missing_key", "devices"),
        ('name = "At tic"\ndevices = 3', "bad_value", "name"),
        (f'name = "{"a" * 28}"\ndevices = 3', "bad_value", "name"),
        ('name = "attic"\ndevices = 0', "bad_value", "devices"),
        ('name = "attic"\ndevices = 2.5', "bad_value", "devices"),
        ('name = "attic"\ndevices = true', "bad_value", "devices"),
        ('name = "attic"\ndevices = 2001', "bad_value", "devices"),
        (HEAD + "device = 3", "unknown_key", "device"),
        (HEAD + "duration_s = -1", "bad_value", "duration_s"),
        (HEAD + "duration_s = nan", "bad_value", "duration_s"),
        (HEAD + "title = 3", "bad_value", "title"),
        (HEAD + "fault = 3", "bad_value", "fault"),
        (HEAD + "fault = [1]", "bad_value", "fault"),
        (HEAD + "[[fault]]\nshare = 0.1", "missing_key", "fault[0].kind"),
        (HEAD + '[[fault]]\nkind = "fire"\nshare = 0.1', "bad_value", "fault[0].kind"),
        (HEAD + '[[fault]]\nkind = "panic"', "missing_key", "fault[0].share"),
        (HEAD + '[[fault]]\nkind = "panic"\nshare = 0.1\ncount = 1', "bad_value", "fault[0].count"),
        (HEAD + '[[fault]]\nkind = "panic"\nshare = 1.1', "bad_value", "fault[0].share"),
        (HEAD + '[[fault]]\nkind = "panic"\nnames = []', "bad_value", "fault[0].names"),
        (HEAD + '[[fault]]\nkind = "panic"\nnames = ["../x"]', "bad_value", "fault[0].names"),
        (HEAD + '[[fault]]\nkind = "panic"\nnames = ["a", "a"]', "bad_value", "fault[0].names"),
        (HEAD + '[[fault]]\nkind = "panic"\nshare = 0.1\nratio = 1', "unknown_key", "fault[0].ratio"),
        (HEAD + '[[fault]]\nkind = "lost_chunks"\nshare = 0.1', "missing_key", "fault[0].ratio"),
        (HEAD + '[[fault]]\nkind = "lost_chunks"\nshare = 1\nratio = 2', "bad_value", "fault[0].ratio"),
        (HEAD + '[[fault]]\nkind = "power_cut"\nshare = 1\ntear = "x"', "bad_value", "fault[0].tear"),
        (
            HEAD + '[[fault]]\nkind = "power_cut"\nshare = 1\nat_op = 2\nper_hour = 3',
            "bad_value",
            "fault[0].at_op",
        ),
        (HEAD + '[[fault]]\nkind = "lying_clock"\nshare = 1\nabsent = 1', "bad_value", "fault[0].absent"),
        (HEAD + '[[fault]]\nkind = "panic"\nshare = 1\n' * 65, "too_many", "fault"),
    ],
)
def test_what_is_wrong_is_named_by_code_and_key(text: str, code: str, where: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(text)
    assert (caught.value.code, caught.value.where) == (code, where)


def test_a_syntax_error_says_its_line(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="line 3"):
        parse(HEAD + "seed = = 1")
    with pytest.raises(ScenarioError, match="unreadable"):
        read(tmp_path / "none.toml")
    (tmp_path / "big.toml").write_text("#" * 70_000)
    with pytest.raises(ScenarioError, match="too_many"):
        read(tmp_path / "big.toml")


@pytest.mark.parametrize("path", sorted(scenarios.SCENARIOS.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_scenarios_are_sound(path: Path) -> None:
    scenario = read(path)
    assert scenario.name == path.stem
    steps = scenario.steps(ids(scenario))
    assert steps
    assert {step.rule for step in steps} == set(range(len(scenario.rules))), "every fault strikes"


def test_the_default_has_one_device_in_twenty_with_a_fault() -> None:
    scenario = read(scenarios.DEFAULT)
    hit = {step.device_id for step in scenario.steps(ids(scenario))}
    assert len(hit) == scenario.devices * 0.05


def test_everything_shows_every_kind_of_fault() -> None:
    shown = {rule.kind for rule in read(scenarios.SCENARIOS / "everything.toml").rules}
    assert shown == set(FAULTS) - {"worse_model"}, "an effect of one model: rehearsals have it"
    reached = {step.fault.kind for rule in ALL for step in one(rule).steps(ids(one(rule)))}
    assert reached == set(KINDS) - {"flip"}, "flip is the demo's"


ALL = [
    f'kind = "{kind}"\nshare = 0.2\n' + ("ratio = 0.5\n" if kind.endswith("chunks") else "") for kind in FACES
] + ['kind = "power_cut"\ncount = 1\nat_op = 9']


def test_a_run_follows_from_the_seed_and_the_devices() -> None:
    text = 'kind = "power_cut"\nshare = 0.25\nper_hour = 120\nstart_s = 60\nduration_s = 300\ntear = "any"'
    scenario = one(text)
    steps = scenario.steps(ids(scenario))
    assert steps == one(text).steps(ids(scenario))
    assert steps != one(text, seed=6).steps(ids(scenario))
    assert len({step.device_id for step in steps}) == 5
    assert all(60 <= step.at_s < 360 for step in steps)
    assert [step.at_s for step in steps] == sorted(step.at_s for step in steps)
    assert 20 < len(steps) < 90, "five devices, 120 an hour, five minutes: 50 expected"
    assert {step.fault.whole("mode") for step in steps} == {0, 1, 2}
    assert {step.fault.whole("ops") > 0 for step in steps} == {True, False}
    assert scenario.steps(ids(scenario), run_s=60) == []


def test_a_fault_with_a_seed_of_its_own_stays_the_same_beside_others() -> None:
    kept = 'kind = "power_cut"\ncount = 2\nper_hour = 60\nseed = 9'
    alone = one(kept)
    second = one(f'kind = "panic"\ncount = 1\n[[fault]]\n{kept}', seed=77)
    mine = [(s.at_s, s.device_id, s.fault) for s in second.steps(ids(alone)) if s.rule == 1]
    assert mine == [(s.at_s, s.device_id, s.fault) for s in alone.steps(ids(alone))]
    with pytest.raises(ScenarioError, match=r"fault\[0\].seed"):
        one(f"{kept}\n".replace("seed = 9", "seed = -1"))


def test_names_counts_and_shares_choose_devices() -> None:
    everyone = ids(one(ALL[0]))
    named = one('kind = "panic"\nnames = ["attic-0003", "attic-0001"]').steps(everyone)
    assert [step.device_id for step in named] == ["attic-0001", "attic-0003"]
    counted = one('kind = "panic"\ncount = 3').steps(everyone)
    assert len({step.device_id for step in counted}) == 3
    assert len(one('kind = "panic"\nshare = 0.01').steps(everyone)) == 1, "a share is one device at least"
    with pytest.raises(ScenarioError) as caught:
        one('kind = "panic"\nnames = ["attic-0020"]').steps(everyone)
    assert caught.value.where == "fault[0].names"


def test_lasting_faults_carry_their_duration_and_rot_is_found_by_a_cut() -> None:
    scenario = one('kind = "slow_flash"\ncount = 1\nstart_s = 9\nduration_s = 30\nms = 12')
    (step,) = scenario.steps(ids(scenario))
    assert (step.at_s, step.fault.kind, step.fault["ms"], step.fault.seconds) == (9, "slow_flash", 12, 30)
    scenario = one('kind = "corrupt_flash"\ncount = 1\narea = "run"\nbits = 4')
    assert [step.fault.kind for step in scenario.steps(ids(scenario))] == ["rot", "power"]


def test_the_command_line_changes_numbers_within_their_bounds() -> None:
    scenario = one(ALL[0], devices=3, duration_s=None)
    assert (scenario.devices, scenario.duration_s) == (3, 600)
    with pytest.raises(ScenarioError) as caught:
        one(ALL[0], devices=5000)
    assert caught.value.where == "devices"


def test_a_flood_of_single_faults_is_refused() -> None:
    text = 'kind = "panic"\nshare = 1\nper_hour = 3600'
    scenario = one(text, devices=2000, duration_s=86_400)
    with pytest.raises(ScenarioError, match="too_many"):
        scenario.steps(ids(scenario))


KEYS = st.sampled_from(
    [
        "kind",
        "share",
        "count",
        "names",
        "start_s",
        "duration_s",
        "ratio",
        "ms",
        "tear",
        "per_hour",
        "bits",
        "x",
    ]
)
VALUES = st.one_of(
    *(st.sampled_from([*FAULTS, "torn", "any", "x"]), st.integers(-5, 10**10), st.booleans()),
    *(st.floats(), st.lists(st.text(string.ascii_lowercase, max_size=3), max_size=2)),
)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=6), max_size=3))
def test_any_table_is_a_scenario_or_a_coded_refusal(tables: list[dict[str, Any]]) -> None:
    rows = ["[[fault]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in t.items()) for t in tables]
    try:
        scenario = parse(HEAD + "duration_s = 900\n" + "".join(rows))
        steps = scenario.steps(ids(scenario))
    except ScenarioError as error:
        code = error.code
    else:
        code = ""
        assert all(0 <= step.at_s < 900 for step in steps)
        assert all(Fault.parse(step.fault.record()) == step.fault for step in steps), "packets say it all"
    assert code in {"", "unknown_key", "missing_key", "bad_value", "too_many"}


def test_a_lasting_fault_ends_by_itself_and_is_handed_on_with_what_it_has_left() -> None:
    lasting = Lasting()
    lasting.begin(Fault.parse({"kind": "battery", "seconds": 10}), 100.0)
    lasting.begin(Fault.parse({"kind": "wifi", "up_s": 1, "seconds": 40}), 100.0)
    assert lasting.get("battery", 109.9) is not None
    assert {fault.kind: fault.seconds for fault in lasting.left(105.0)} == {"battery": 5.0, "wifi": 35.0}
    assert lasting.get("battery", 110.0) is None
    assert [fault.kind for fault in lasting.left(120.0)] == ["wifi"]
    lasting.begin(Fault.parse({"kind": "wifi", "up_s": 9, "seconds": 5}), 120.0)
    newest = lasting.get("wifi", 121.0)
    assert newest is not None
    assert newest["up_s"] == 9

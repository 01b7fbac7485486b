"""What the planning helper says holds when the gate itself is simulated with other seeds."""

from __future__ import annotations

import json
import math
from io import StringIO

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from ota import planning
from ota.gates.quality import log_process


@pytest.mark.parametrize(("drop", "sd"), [(0.05, 0.045), (0.03, 0.045), (0.10, 0.12)])
def test_the_pairs_it_names_catch_the_drop_as_often_as_it_says(drop: float, sd: float) -> None:
    pairs = planning.halt_pairs(drop, sd, alpha=0.02)
    assert pairs is not None
    d = np.clip(np.random.default_rng(99).normal(drop, sd, (1_500, pairs)), -2, 2)
    share = float((log_process(d).max(axis=-1) >= math.log(50)).mean())
    noise = 3.29 * math.sqrt(0.95 * 0.05 * (1 / 1_500 + 1 / 1_000))
    assert abs(share - 0.95) <= noise + 0.03  # one pair more or less moves it by up to 3 points


def test_the_pairs_it_names_let_an_equal_candidate_pass() -> None:
    pairs = planning.pass_pairs(0.03, 0.045)
    assert pairs is not None
    d = np.random.default_rng(98).normal(0.0, 0.045, (1_500, pairs))
    share = float((log_process(0.03 - d).max(axis=-1) >= math.log(20)).mean())
    assert abs(share - 0.95) <= 3.29 * math.sqrt(0.95 * 0.05 * (1 / 1_500 + 1 / 1_000)) + 0.02


def test_what_cannot_be_reached_is_none_and_larger_effects_need_fewer() -> None:
    assert planning.halt_pairs(0.001, 0.2, alpha=0.02) is None
    assert planning.pass_pairs(0.001, 0.2) is None
    needed = [planning.halt_pairs(drop, 0.045, alpha=0.02) for drop in (0.02, 0.03, 0.05, 0.10)]
    assert needed == sorted(needed, reverse=True)  # type: ignore[type-var]


def test_the_same_question_has_the_same_answer() -> None:
    one = planning.sizes_for(0.05, promote_margin=0.03, per_hour=20)
    planning.halt_pairs.cache_clear()
    planning.pass_pairs.cache_clear()
    assert planning.sizes_for(0.05, promote_margin=0.03, per_hour=20) == one
    assert [size.pair_sd for size in one] == sorted((size.pair_sd for size in one), reverse=True)
    six = next(size for size in one if size.window_h == 6)
    assert six.outcomes == 120
    assert six.pairs == max(six.halt_pairs or 0, six.pass_pairs or 0)
    assert six.hours > 6


def test_the_command_prints_the_table_and_refuses_nonsense() -> None:
    out = StringIO()
    call_command("rollouts", "plan-size", "--drop", "0.05", "--json", stdout=out)
    found = json.loads(out.getvalue())
    assert [size["window_h"] for size in found] == [1, 3, 6, 12, 24]
    text = StringIO()
    call_command("rollouts", "plan-size", stdout=text)
    assert "devices per arm" in text.getvalue()
    for flag, value in (("--drop", "0"), ("--drop", "nan"), ("--power", "1"), ("--in-flight", "0")):
        with pytest.raises(CommandError, match="it must be"):
            call_command("rollouts", "plan-size", flag, value)

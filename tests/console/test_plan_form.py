"""Classes apart, proof of few failures and offers a minute: in the form, its preview and the plan's facts."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client

from fleet.console.plan_form import RolloutForm
from fleet.console.plan_initial import initial_of
from ota.gates.proof import least_devices
from ota.models import Rollout
from ota.plan import Plan
from tests.console import planning, rows
from tests.console.test_rollout_pages import AsRole, said
from tests.console.test_rollout_pages import quiet as quiet

pytestmark = pytest.mark.django_db

LIMITS = {"by_class": "on", "r_prove": "15 %", "offers_per_minute": "30"}


def _previewed(client: Client, filled: rows.Filled, **more: Any) -> str:
    answer = planning.preview(client, said(filled, **more), headers={"HX-Request": "true"})
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_form_reads_the_limits_and_fills_them_back(as_role: AsRole, quiet: rows.Filled) -> None:
    client = as_role("operator")
    assert planning.plan(client, said(quiet, **LIMITS)).status_code == 303
    made = Rollout.objects.get(name="a test")
    plan = Plan.parse(made.plan)
    assert (plan.by_class, plan.r_prove, plan.offers_per_minute) == (True, 0.15, 30)
    again = RolloutForm(initial_of(made))
    assert again.is_valid(), again.errors
    assert again.plan() == plan
    html = client.get(f"/rollouts/{made.pk}").content.decode()
    assert re.search(r'data-test="plan-pace">at most 30 in a minute<', html)
    assert re.search(
        r'data-test="plan-proof">a wave must prove that at most 15 % of its installs fail<', html
    )
    assert 'data-test="plan-by-class"' in html


def test_a_plan_that_says_nothing_of_limits_keeps_the_defaults(as_role: AsRole, quiet: rows.Filled) -> None:
    client = as_role("operator")
    made = planning.made(planning.plan(client, said(quiet), upto="waves"))
    html = client.get(planning.path(made, "waves")).content.decode()
    assert re.search(r'name="offers_per_minute" value="1000"', html)
    html = client.get(planning.path(made, "gates")).content.decode()
    assert not re.search(r'name="by_class"[^>]*checked', html)
    assert planning.change(client, made, said(quiet)).status_code == 303
    made.refresh_from_db()
    assert (made.plan["by_class"], made.plan["r_prove"], made.plan["offers_per_minute"]) == (
        False,
        None,
        1_000,
    )
    html = client.get(f"/rollouts/{made.pk}").content.decode()
    assert 'data-test="plan-proof">none demanded<' in html
    assert 'data-test="plan-by-class"' not in html


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"r_prove": "few"}, "r_prove", "no share: write it as 5%"),
        ({"r_prove": "0"}, "r_prove", "write 0.1% to 99%"),
        ({"r_prove": "100%"}, "r_prove", "write 0.1% to 99%"),
        ({"r_prove": "nan"}, "r_prove", "write 0.1% to 99%"),
        ({"offers_per_minute": "0"}, "offers_per_minute", "whole number from 1 to 30,000"),
        ({"offers_per_minute": "30001"}, "offers_per_minute", "whole number from 1 to 30,000"),
        ({"offers_per_minute": "1e3"}, "offers_per_minute", "whole number from 1 to 30,000"),
        ({"offers_per_minute": ""}, "offers_per_minute", "required"),
    ],
)
def test_a_limit_that_means_nothing_is_told_beside_its_field_and_stays_typed(
    as_role: AsRole, quiet: rows.Filled, change: dict[str, str], field: str, words: str
) -> None:
    answer = planning.plan(as_role("operator"), said(quiet, **(LIMITS | change)))
    html = answer.content.decode()
    assert answer.status_code == 422
    assert words in html.split(f'data-test="error-{field}"')[1][:500]
    value = f' value="{change[field]}"' if change[field] else ""
    assert re.search(rf'name="{field}"{value}[ >]', html)
    row = Rollout.objects.get(name="a test")
    assert (row.state, row.plan["r_prove"], row.plan["by_class"]) == ("draft", None, False)
    assert row.plan["offers_per_minute"] in (30, 1_000)


def test_two_wrong_limits_are_told_at_once(as_role: AsRole, quiet: rows.Filled) -> None:
    wrong = {"r_prove": "few", "soak": "soon"}
    html = planning.plan(as_role("operator"), said(quiet, **wrong)).content.decode()
    assert 'data-test="error-r_prove"' in html
    assert 'data-test="error-soak"' in html


def test_the_preview_tells_pairs_by_class_what_proves_and_how_long_offers_take(
    as_role: AsRole, quiet: rows.Filled
) -> None:
    client = as_role("operator")
    plain = _previewed(client, quiet)
    assert "20 pairs" in plain
    assert 'data-test="preview-proof"' not in plain
    assert "fit into one minute of offers, 1\u202f000 at most" in plain
    html = _previewed(client, quiet, waves="40, 100%", control="30", **LIMITS)
    assert re.search(r"\d+ pairs of \S+, \d+ pairs of ", html)
    assert f"{least_devices(0.15)} devices without a failure" in html
    assert "At 30 offers a minute the last offer is at least 2 minutes after the first" in html


def test_the_preview_judges_what_the_smallest_class_can_show(as_role: AsRole, quiet: rows.Filled) -> None:
    def drop(html: str) -> float:
        found = re.search(r"a drop of <strong>([\d.]+) points", html)
        assert found, html
        return float(found[1])

    client = as_role("operator")
    whole = _previewed(client, quiet, waves="40, 100%", control="30")
    apart = _previewed(client, quiet, waves="40, 100%", control="30", by_class="on")
    assert drop(apart) > drop(whole)
    assert "pairs of the smallest class" in apart


def test_the_preview_names_the_wave_that_cannot_prove_so_few_failures(
    as_role: AsRole, quiet: rows.Filled
) -> None:
    html = _previewed(as_role("operator"), quiet, r_prove="5%")
    assert "gate_unreachable" in html
    assert f"Wave 1 has 20 devices: without one failure {least_devices(0.05)} prove" in html
    assert least_devices(0.05) == 59  # the number in the field's help
    help_text = RolloutForm.base_fields["r_prove"].help_text
    assert "59 devices" in help_text

"""A plan that was made over REST, changed in the form: what the form does not know stays, and is said."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest

from fleet.accounts.audit import Actor
from fleet.console.plan_form import RolloutForm
from fleet.console.plan_initial import initial_of
from fleet.console.plan_merge import SHOWN, beyond
from ota import rollouts
from ota.models import Rollout
from ota.plan import Plan
from tests.console import planning, rows
from tests.console.test_rollout_pages import AsRole, said
from tests.console.test_rollout_pages import quiet as quiet

pytestmark = pytest.mark.django_db

RICH: dict[str, Any] = {
    "waves": [{"count": 20}, {"percent": 33.3333333}, {"percent": 100}],
    "control": {"count": 20},
    "metrics": [
        {"metric": "accuracy", "kind": "estimate", "promote_margin": 0.1, "halt_margin": 0.01, "weight": 0.6},
        {"metric": "anomaly", "promote_margin": 0.2, "weight": 0.3},
        {"metric": "reporting", "promote_margin": 0.15, "weight": 0.1},
    ],
    "min_pairs": 12,
    "soak_s": 30.5,
    "settle_s": 3,
    "window_s": 20,
    "max_soak_s": 120,
    "min_reach": 0.99,
    "max_in_flight_later": 77,
    "r_max_model": 0.2,
    "latency_budget_us": 20_000,
    "retry_base_s": 90,
    "timers": {"downloading": 120},
    "start_at": "2099-05-02T20:00:30Z",
}
"""Something in every way that the form cannot say."""


def sent(row: Rollout, **more: Any) -> dict[str, Any]:
    """What a browser sends for the edit form as it stands, with some fields typed over."""
    fields = {name: "on" if value is True else value for name, value in initial_of(row).items()}
    kept = {name: value for name, value in fields.items() if value is not False and name != "rev"}
    return kept | {"do": "save"} | more


@pytest.fixture
def rich(quiet: rows.Filled) -> Rollout:
    """A draft as REST makes it."""
    return rollouts.create(
        "a test", quiet.manifests["3.0.0"], plan=RICH, actor=Actor("token", "olga/tfk_1"), now=rows.present()
    )


def edited(as_role: AsRole, row: Rollout, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The stored plan before and after the form was sent."""
    before = row.plan
    answer = planning.change(as_role("operator"), row, sent(row, **more))
    assert answer.status_code == 303, answer.content.decode()[:3000]
    row.refresh_from_db()
    return before, row.plan


def test_what_nobody_touched_stays_to_the_last_digit(as_role: AsRole, rich: Rollout) -> None:
    before, after = edited(as_role, rich, name="another name")
    assert after == before
    assert rich.name == "another name"


def test_one_changed_field_changes_one_field(as_role: AsRole, rich: Rollout) -> None:
    before, after = edited(as_role, rich, soak="40 s", waves="10, 50%, 100%")
    waves = [{"count": 10}, {"percent": 50.0}, {"percent": 100.0}]
    assert after == before | {"soak_s": 40, "waves": waves}


def test_another_zone_means_the_time_as_it_stands_there(as_role: AsRole, rich: Rollout) -> None:
    before, after = edited(as_role, rich, zone="Europe/Berlin")
    assert after == before | {"zone": "Europe/Berlin", "start_at": "2099-05-02T18:00:00Z"}


def metrics(plan: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = ("metric", "kind", "promote_margin", "halt_margin")
    return [(*(row[name] for name in names), round(row["weight"], 6)) for row in plan["metrics"]]


def test_a_changed_margin_is_every_metrics_and_leaves_the_other_margin_and_the_weights(
    as_role: AsRole, rich: Rollout
) -> None:
    _, after = edited(as_role, rich, promote_margin="12")
    assert metrics(after) == [
        ("accuracy", "estimate", 0.12, 0.01, 0.6),
        ("anomaly", "", 0.12, 0.0, 0.3),
        ("reporting", "", 0.15, 0.0, 0.1),
    ]


def test_another_choice_of_metrics_shares_the_weight_and_keeps_what_was_there(
    as_role: AsRole, rich: Rollout
) -> None:
    _, after = edited(as_role, rich, metrics=["accuracy", "anomaly", "resets"])
    assert metrics(after) == [
        ("accuracy", "estimate", 0.1, 0.01, 0.3),
        ("anomaly", "", 0.2, 0.0, 0.3),
        ("resets", "", 0.1, 0.01, 0.3),
        ("reporting", "", 0.15, 0.0, 0.1),
    ]


def test_no_metric_chosen_leaves_no_gate_and_the_rest(as_role: AsRole, rich: Rollout) -> None:
    before, after = edited(as_role, rich, metrics=[])
    assert after == before | {"metrics": []}


def test_the_form_says_what_it_has_no_field_for(as_role: AsRole, rich: Rollout) -> None:
    html = unescape(as_role("operator").get(planning.path(rich, "gates")).content.decode())
    told = html.split('data-test="set-over-api"')[1].split("</section>")[0]
    for words in (
        "max_in_flight_later 77", "min_reach 0.99", "r_max_model 0.2", "latency_budget_us 20000",
        "retry_base 1 min 30 s", "timer of downloading 2 min",
        "accuracy (estimate) passes within 10, halts beyond 1 points, weight 0.6",
        "anomaly passes within 20, halts beyond 0 points, weight 0.3",
        "reporting passes within 15, halts beyond 0 points, weight 0.1",
    ):  # fmt: skip
        assert words in told, words
    assert "soak" not in told, "the form shows it"


def test_a_plan_that_the_form_made_has_nothing_beyond_it(as_role: AsRole, quiet: rows.Filled) -> None:
    client = as_role("operator")
    chosen = {"metrics": ["accuracy", "anomaly"]}
    made = planning.made(planning.plan(client, said(quiet, **chosen)))
    assert beyond(Plan.parse(made.plan)) == []
    assert 'data-test="set-over-api"' not in client.get(planning.path(made, "gates")).content.decode()
    form = RolloutForm(sent(made, rev=made.rev), initial=initial_of(made))
    assert form.is_valid(), form.errors
    assert form._plan_json().keys() == SHOWN, "what the form shows and what it says it shows"
    assert (form.changed_data, form.plan()) == ([], Plan.parse(made.plan))


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"promote_margin": "0.0005"}, "promote_margin", "a margin of 0.0005 points (5e-06) cannot be"),
        ({"promote_margin": "101"}, "promote_margin", "Write points from 0 to 100."),
        ({"promote_margin": "-1"}, "promote_margin", "Write points from 0 to 100."),
        ({"promote_margin": "three"}, "promote_margin", "Write points from 0 to 100."),
        ({"promote_margin": "nan"}, "promote_margin", "Write points from 0 to 100."),
        ({"halt_margin": "200"}, "halt_margin", "Write points from 0 to 100."),
        ({"halt_margin": "12.5"}, "halt_margin", "12.5 points are more than the promote margin, 10 points."),
    ],
)
def test_a_wrong_margin_is_told_in_points(
    change: dict[str, str], field: str, words: str, as_role: AsRole, quiet: rows.Filled
) -> None:
    answer = planning.plan(as_role("operator"), said(quiet, **change))
    assert answer.status_code == 422
    assert words in answer.content.decode().split(f'data-test="error-{field}"')[1][:500]


def test_the_preview_speaks_of_a_margin_in_points_too(as_role: AsRole, quiet: rows.Filled) -> None:
    answer = planning.preview(as_role("operator"), said(quiet, promote_margin="0.5"))
    assert "a margin of 0.5 points (0.005) for accuracy:proxy needs at least" in answer.content.decode()

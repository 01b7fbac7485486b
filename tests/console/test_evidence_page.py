"""The page of one evidence row: its gates, its pairs, and whether it still recomputes."""

from __future__ import annotations

from collections.abc import Callable

from django.test import Client

from ota.models import Evidence
from tests.console import rows

AsRole = Callable[[str], Client]


def test_the_gate_table_leads_to_its_evidence(as_role: AsRole, filled: rows.Filled) -> None:
    client, row = as_role("viewer"), filled.rollouts["halted"]
    path = f"/rollouts/{row.pk}/evidence/{row.halted_on_id}"
    assert f'href="{path}"' in client.get(f"/rollouts/{row.pk}").content.decode()
    html = client.get(path).content.decode()
    assert 'data-test="recomputes" data-same="true"' in html
    assert "Recomputes to the same verdict" in html
    assert 'data-rule="quality:accuracy:proxy"' in html
    assert "proxy labels are biased" in html
    assert 'data-test="pairs" data-metric="accuracy:proxy"' in html
    assert 'href="/devices/dev-001"' in html
    assert row.halted_on is not None
    assert row.halted_on.inputs_sha256 in html
    assert "<h2>Pairs: Accuracy (proxy labels)</h2>" in html
    assert 'data-label="Wave, before"' in html


def test_a_metric_without_history_shows_no_past_of_its_devices(as_role: AsRole, filled: rows.Filled) -> None:
    row = filled.rollouts["halted"]
    found = Evidence.objects.get(pk=row.halted_on_id)
    (accuracy,) = found.inputs["metrics"]
    found.inputs["metrics"] = [accuracy | {"metric": "reporting", "kind": ""}]
    found.save(update_fields=["inputs"])
    html = as_role("viewer").get(f"/rollouts/{row.pk}/evidence/{found.pk}").content.decode()
    assert "<h2>Pairs: Telemetry reported</h2>" in html
    assert "before" not in html.partition('data-test="pairs"')[2].partition("</section>")[0]


def test_evidence_that_was_tampered_with_is_told(as_role: AsRole, filled: rows.Filled) -> None:
    row = filled.rollouts["halted"]
    found = Evidence.objects.get(pk=row.halted_on_id)
    found.inputs["metrics"][0]["pairs"][0]["d"] = -1.0
    Evidence.objects.filter(pk=found.pk).update(inputs=found.inputs)
    html = as_role("viewer").get(f"/rollouts/{row.pk}/evidence/{found.pk}").content.decode()
    assert 'data-test="recomputes" data-same="false"' in html
    assert "do not fit their digest" in html


def test_evidence_of_another_rollout_is_not_found(as_role: AsRole, filled: rows.Filled) -> None:
    other = filled.rollouts["completed"]
    path = f"/rollouts/{other.pk}/evidence/{filled.rollouts['halted'].halted_on_id}"
    assert as_role("viewer").get(path).status_code == 404

"""Evidence of every code version that ever judged recomputes to its verdict and its digest.

`evidence_rows/gates-N.json` holds rows as that version stored them; a version adds its file and changes none.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ota import evidence
from ota.gates.evaluate import FORMAT, evaluate
from ota.models import Evidence

ROWS = [
    pytest.param(row, id=f"{file.stem}-{index}-{row['verdict']}")
    for file in sorted((Path(__file__).parent / "evidence_rows").glob("gates-*.json"))
    for index, row in enumerate(json.loads(file.read_text()))
]


def stored(row: dict[str, Any], **change: Any) -> Evidence:
    names = ("verdict", "rows", "inputs", "inputs_sha256", "code_version")
    return Evidence(**{name: copy.deepcopy(row[name]) for name in names} | change)


@pytest.mark.parametrize("row", ROWS)
def test_a_stored_row_recomputes(row: dict[str, Any]) -> None:
    again = evidence.recheck(stored(row))
    assert (again.is_intact, again.is_same, again.problem) == (True, True, "")
    figures = {one["rule"]: one for one in again.rows}
    for one in row["rows"]:
        for name in ("verdict", "limit", "n", "pairs", "automatic"):
            assert figures[one["rule"]][name] == one[name], (one["rule"], name)
        assert figures[one["rule"]]["now"] == pytest.approx(one["now"])


def test_every_code_version_and_every_verdict_is_kept() -> None:
    kept = {param.values[0]["code_version"] for param in ROWS}  # type: ignore[attr-defined]
    assert kept == {f"gates-{n}" for n in range(1, int(evidence.CODE_VERSION.partition("-")[2]) + 1)}
    verdicts = {param.values[0]["verdict"] for param in ROWS}  # type: ignore[attr-defined]
    assert verdicts == {"pass", "fail", "inconclusive"}


@pytest.mark.parametrize("row", ROWS)
def test_changed_inputs_or_verdict_are_told(row: dict[str, Any]) -> None:
    inputs = copy.deepcopy(row["inputs"])
    inputs["reach"]["reached"] += 1
    assert "digest" in evidence.recheck(stored(row, inputs=inputs)).problem
    other = "pass" if row["verdict"] != "pass" else "fail"
    assert not evidence.recheck(stored(row, verdict=other)).is_same


def test_a_newer_format_is_refused_and_told() -> None:
    row = ROWS[0].values[0]  # type: ignore[attr-defined]
    inputs = {**row["inputs"], "format": FORMAT + 1}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="newer"):
        evaluate(inputs)
    told = evidence.recheck(stored(row, inputs=inputs, inputs_sha256=evidence.digest(inputs)))
    assert (told.is_intact, told.is_same) == (True, False)
    assert "cannot be judged" in told.problem

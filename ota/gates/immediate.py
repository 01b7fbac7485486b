"""Reports of one device that halt at once, for a person: they contradict what was signed or proven before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ota.choices import Verdict
from ota.gates.rows import Row, make_row


def single_rows(singles: list[Mapping[str, Any]], *, is_first: bool) -> list[Row]:
    """A FAIL row per report: a refused signature in any wave, a disproven preflight in the first one.

    singles: {"device", "code"}. None of them is automatic: one device's word waits for a person.
    """
    rows = []
    for single in singles:
        code, device = single["code"], single["device"]
        if code == "signature":
            rule, label, why = (
                "security",
                "Signature refused",
                "a device refused the signature of this manifest",
            )
        elif is_first:
            rule, label, why = "first_wave", "Preflight was wrong", f"{code} in the first wave"
        else:
            continue
        text = f"{device}: {why}; one device's word halts for a person"
        rows.append(make_row(rule, label, Verdict.FAIL, text, now=1.0, limit=0.0, n=1))
    return rows

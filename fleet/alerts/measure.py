"""What a rule finds now: stored telemetry and the clock in, findings out; nothing here writes.

One statement judges all devices, a second one counts per part of the fleet; neither grows with the fleet's
number of alerts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django.db import connection

from fleet.alerts import drift_evidence, kinds, statements, system
from fleet.alerts.findings import Finding
from fleet.alerts.kinds import KINDS, Kind
from fleet.alerts.models import Rule
from fleet.telemetry import selection
from fleet.telemetry.intervals import t_half_width
from fleet.telemetry.models import Version
from ota.gates.wilson import wilson_lower_bound

MOST_FINDINGS: Final = 5_000
"""Most devices that one evaluation of a rule opens or keeps alerts for; the rest waits for the next one."""
DEVICE: Final = "device:"


def findings(rule: Rule, *, now: datetime, open_keys: Collection[str] = ()) -> list[Finding]:
    """Whatever fires, and whatever is known of `open_keys`; parts of the fleet come first.

    Raises QueryError or GroupError of `fleet.devices` when the rule's query is none any more.
    """
    kind = KINDS[rule.kind]
    if kind.is_system:
        return system.findings(kind, rule.threshold, now=now, open_keys=open_keys)
    scope = selection.condition(rule.q, now=now) if rule.q else None
    parameters: dict[str, Any] = {
        **(scope.parameters if scope else {}),
        "now": now,
        "since": now - kind.span,
        "reference": now - kind.span - kinds.REFERENCE,
        "threshold": rule.threshold,
        "open": [key.removeprefix(DEVICE) for key in open_keys if key.startswith(DEVICE)],
    }
    ask = _Ask(kind, scope.sql if scope else "true", parameters, now)
    if kind.is_fleet:
        return ask.parts(rule.threshold)
    devices = ask.devices()
    found = [*(ask.shares(devices) if kind.folds else ()), *devices]
    return drift_evidence.explained(found, rule, now=now) if kind.name == "drift" else found


class _Ask:
    """One kind's statements with a rule's scope and parameters."""

    def __init__(self, kind: Kind, scope: str, parameters: dict[str, Any], now: datetime) -> None:
        self.kind = kind
        self.parameters = parameters
        self.now = now
        table = statements.FLEET if kind.is_fleet else statements.DEVICES
        self.statement = table[kind.name].replace("{scope}", scope)
        self._runs: dict[int, Version] | None = None

    def devices(self) -> list[Finding]:
        """Devices that fire or have an alert that is not resolved."""
        rows = self._rows(
            f"SELECT * FROM ({self.statement}) j WHERE is_firing OR device_id = ANY(%(open)s)"  # noqa: S608
            f" ORDER BY is_firing DESC, device_id LIMIT {MOST_FINDINGS}"
        )
        return [
            Finding(
                DEVICE + row["device_id"],
                bool(row["is_firing"]),
                bool(row["is_clear"]),
                self._evidence(row, devices=[row["device_id"]]),
                device_id=row["device_id"],
                device_class=row["device_class"],
                mid=self._mid(row["version_id"]),
            )
            for row in rows
        ]

    def shares(self, devices: Sequence[Finding]) -> list[Finding]:
        """Parts of the fleet by the share of their devices that fire."""
        rows = self._rows(
            "SELECT device_class, version_id, count(*) FILTER (WHERE is_firing OR is_clear) AS n,"  # noqa: S608
            " count(*) FILTER (WHERE is_firing) AS firing,"
            " coalesce((array_agg(device_id ORDER BY device_id)"
            " FILTER (WHERE is_firing))[1:200], '{}') AS ids"
            f" FROM ({self.statement}) j GROUP BY 1, 2 ORDER BY 1, 2"
        )
        found = []
        for row in rows:
            n, firing, mid = row["n"], row["firing"], self._mid(row["version_id"])
            low = wilson_lower_bound(firing, n, confidence=kinds.FLEET_CONFIDENCE)
            is_firing = firing >= kinds.LEAST_FLEET_DEVICES and low > self.kind.clean_rate
            about = {
                "value": firing / n if n else 0.0, "limit": self.kind.clean_rate, "n": n, "low": low,
                "unit": "ratio", "firing": firing,
            }  # fmt: skip
            found.append(
                Finding(
                    _part(row["device_class"], mid),
                    is_firing,
                    n >= kinds.LEAST_FLEET_DEVICES and not is_firing,
                    self._evidence({**row, **about}, devices=row["ids"], more=about),
                    device_class=row["device_class"],
                    mid=mid,
                    is_fleet=True,
                    folded=frozenset(
                        one.key
                        for one in devices
                        if one.is_firing
                        and one.device_class == row["device_class"]
                        and (not mid or one.mid == mid)
                    ),
                )
            )
        return found

    def parts(self, threshold: float) -> list[Finding]:
        """Parts of the fleet compared with what was usual in the week before."""
        found = []
        for row in self._rows(self.statement):
            is_accuracy = self.kind.name == "accuracy_drop"
            least = kinds.LEAST_LABELS if is_accuracy else kinds.LEAST_INFERENCES
            enough = row["usual"] and row["n"] >= least and row["usual_n"] >= least
            if is_accuracy:
                half = t_half_width(row["spread"], row["devices"])
                enough = enough and row["devices"] >= kinds.LEAST_DEVICES and half is not None
                limit = (row["usual"] or 0.0) - threshold
                bound = row["value"] + (half or 0.0)
                is_bad, more = bound < limit, {"high": bound, "unit": "ratio", "accuracy_kind": "proxy"}
            else:
                limit = (row["usual"] or 0.0) * threshold
                is_bad, more = row["value"] > limit, {"unit": "us"}
            more |= {"usual": row["usual"], "usual_n": row["usual_n"], "n_devices": row["devices"]}
            mid = self._mid(row["version_id"])
            found.append(
                Finding(
                    _part(row["device_class"], mid),
                    bool(enough and is_bad),
                    bool(enough and not is_bad),
                    self._evidence({**row, "limit_": limit}, devices=row["ids"], more=more),
                    device_class=row["device_class"],
                    mid=mid,
                    is_fleet=True,
                )
            )
        return found

    def _evidence(
        self, row: Mapping[str, Any], *, devices: Sequence[str], more: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        run = self._run(row["version_id"])
        return {
            "value": float(row["value"] or 0.0),
            "limit": float(row.get("limit", row.get("limit_", 0.0))),
            "n": int(row["n"]),
            "unit": self.kind.unit,
            "from": (self.now - self.kind.span).isoformat(),
            "to": self.now.isoformat(),
            "model": run.model if run else "",
            "version": run.version if run else "",
            "devices": list(devices),
            **{name: int(value) if name.endswith("_n") else value for name, value in (more or {}).items()},
        }

    def _rows(self, sql: str) -> list[dict[str, Any]]:
        with connection.cursor() as cursor:
            cursor.execute(sql, self.parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _run(self, version_id: int) -> Version | None:
        if self._runs is None:
            self._runs = {run.pk: run for run in Version.objects.all()}
        return self._runs.get(version_id)

    def _mid(self, version_id: int) -> str:
        run = self._run(version_id)
        return run.mid if run else ""


def _part(device_class: str, mid: str) -> str:
    return f"fleet:{device_class}:{mid}"

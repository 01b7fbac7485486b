"""The SQL of each kind of rule: one statement judges every device, or every part of the fleet, at once.

Each judges rows `w` with device_id and version_id, which the rule's query narrows ({scope}), into columns
device_id, device_class, version_id, value, n, limit_, is_firing, is_clear. Neither firing nor clear is no
data: such a row neither opens nor resolves an alert. Parameters: now, since (now - span), threshold, open
(device ids with an alert that is not resolved).
"""

from __future__ import annotations

from typing import Final

from fleet.alerts import kinds

_Z: Final = 2.3263478740408408  # of 99 %, one-sided


def _wilson_lower(k: str, n: str) -> str:
    """SQL of the Wilson lower bound (99 %) of k of n; n > 0. As `ota.gates.wilson.wilson_lower_bound`."""
    p = f"({k}::float8 / {n})"
    return (
        f"(({p} + {_Z**2 / 2} / {n} - {_Z} * sqrt({p} * (1 - {p}) / {n} + {_Z**2 / 4} / ({n}::float8 * {n})))"
        f" / (1 + {_Z**2} / {n}))"
    )


_DEVICES: Final = """
    SELECT d.id AS device_id, d.device_class_id AS device_class, coalesce(l.version_id, 0) AS version_id,
        d.last_seen_at, l.ts, l.seq, d.quarantined_at
    FROM devices_device d LEFT JOIN tele_device_last l ON l.device_id = d.id
    WHERE d.retired_at IS NULL
"""
_EVENTS: Final = """
    SELECT w.device_id, w.device_class, w.version_id, f.n::float8 AS value, f.n AS n,
        %(threshold)s::float8 AS limit_, f.n >= %(threshold)s AS is_firing,
        f.n < %(threshold)s AND w.last_seen_at > %(since)s AS is_clear
    FROM ({devices}) w CROSS JOIN LATERAL (
        SELECT count(*) AS n FROM devices_deviceevent e
        WHERE e.device_id = w.device_id AND e.at > %(since)s AND e.at <= %(now)s AND {which}
    ) f WHERE {scope}
"""
_LETTERS: Final = """
    WITH letters AS (
        SELECT t.device_id, count(*) AS n FROM tele_dead t
        WHERE t.at > %(since)s AND t.at <= %(now)s AND t.device_id <> '' AND {which} GROUP BY t.device_id
    )
    SELECT w.device_id, w.device_class, w.version_id, w.n::float8 AS value, w.n,
        %(threshold)s::float8 AS limit_, w.n {exceeds} %(threshold)s AS is_firing,
        NOT w.n {exceeds} %(threshold)s AS is_clear
    FROM (
        SELECT x.device_id, coalesce(d.device_class_id, '') AS device_class,
            coalesce(l.version_id, 0) AS version_id, coalesce(t.n, 0) AS n
        FROM (SELECT device_id FROM letters UNION SELECT unnest(%(open)s::text[])) x (device_id)
        LEFT JOIN letters t ON t.device_id = x.device_id LEFT JOIN devices_device d ON d.id = x.device_id
        LEFT JOIN tele_device_last l ON l.device_id = x.device_id
    ) w WHERE {scope}
"""
_WINDOWS: Final = """
    SELECT w.device_id, w.device_class, w.version_id, f.value::float8 AS value, f.n,
        %(threshold)s::float8 AS limit_, f.bad >= {k} AS is_firing, f.n >= {k} AND f.bad < {k} AS is_clear
    FROM ({devices}) w CROSS JOIN LATERAL (
        SELECT count(*) AS n, count(*) FILTER (WHERE {bad}) AS bad, {value} AS value
        FROM (
            SELECT * FROM tele_window t
            WHERE t.device_id = w.device_id AND t.ts > %(since)s AND t.ts <= %(now)s AND {counts}
            ORDER BY t.ts DESC, t.seq DESC LIMIT {n}
        ) t
    ) f WHERE {scope}
"""
_SILENT: Final = """
    SELECT w.device_id, w.device_class, 0 AS version_id, f.silent_s AS value, 1 AS n, f.limit_,
        f.silent_s > f.limit_ AS is_firing, f.silent_s <= f.limit_ AS is_clear
    FROM ({devices}) w CROSS JOIN LATERAL (
        SELECT extract(epoch FROM %(now)s - w.last_seen_at)::float8 AS silent_s,
            greatest(%(threshold)s::float8, 3e-3 * coalesce((
                SELECT t.dt_ms FROM tele_window t
                WHERE t.device_id = w.device_id AND t.ts = w.ts AND t.seq = w.seq
            ), 0)) AS limit_
    ) f WHERE w.last_seen_at IS NOT NULL AND w.quarantined_at IS NULL AND {scope}
"""
_GAPS: Final = """
    WITH pending AS (
        SELECT t.device_id, count(*) AS n, extract(epoch FROM %(now)s - min(t.found_at))::float8 AS open_s
        FROM tele_gap t WHERE t.state IN ('open', 'asked') GROUP BY t.device_id
    )
    SELECT w.device_id, w.device_class, w.version_id, coalesce(w.open_s, 0) AS value,
        coalesce(w.gaps, 0) AS n, %(threshold)s::float8 AS limit_,
        coalesce(w.open_s > %(threshold)s, false) AS is_firing,
        coalesce(w.open_s <= %(threshold)s, true) AS is_clear
    FROM (
        SELECT d.*, t.n AS gaps, t.open_s FROM ({devices}) d
        LEFT JOIN pending t ON t.device_id = d.device_id
    ) w WHERE {scope}
"""


# Of the model run that the device runs now: what another one did says nothing of this one.
_DRIFT: Final = """
    SELECT w.device_id, w.device_class, w.version_id, coalesce(f.worst, 0)::float8 AS value, f.n,
        %(threshold)s::float8 AS limit_, f.bad >= {k} AS is_firing, f.n >= {k} AND f.bad < {k} AS is_clear
    FROM ({devices}) w CROSS JOIN LATERAL (
        SELECT count(*) AS n, count(*) FILTER (WHERE t.worst > %(threshold)s) AS bad, max(t.worst) AS worst
        FROM (
            SELECT t.worst FROM tele_drift t
            WHERE t.device_id = w.device_id AND t.version_id = w.version_id AND t.ts > %(since)s
                AND t.ts <= %(now)s
            ORDER BY t.ts DESC, t.seq DESC LIMIT {n}
        ) t
    ) f WHERE {scope}
"""


def _events(which: str) -> str:
    return _EVENTS.replace("{devices}", _DEVICES).replace("{which}", which)


def _letters(which: str, exceeds: str) -> str:
    return _LETTERS.replace("{which}", which).replace("{exceeds}", exceeds)


def _windows(*, counts: str, bad: str, value: str) -> str:
    text = _WINDOWS.replace("{counts}", counts).replace("{bad}", bad).replace("{value}", value)
    return _k_of_n(text)


def _k_of_n(statement: str) -> str:
    text = statement.replace("{devices}", _DEVICES).replace("{k}", str(kinds.WINDOWS_FIRING))
    return text.replace("{n}", str(kinds.WINDOWS))


DEVICES: Final = {
    "golden_mismatch": _events("e.kind = 'golden_mismatch'"),
    "crash_loop": _events("e.kind = 'boot' AND e.code <> ''"),
    "mac_bad": _letters("t.code = 'mac_bad'", ">="),
    "dead_letters": _letters("t.code <> 'mac_bad'", ">"),
    "anomaly_rate": _windows(
        counts="t.n > 0",
        bad=f"{_wilson_lower('t.anom_n', 't.n')} > %(threshold)s",
        value="coalesce(sum(t.anom_n)::float8 / nullif(sum(t.n), 0), 0)",
    ),
    # a window without a heap reading has 0
    "low_heap": _windows(
        counts="t.heap_min > 0",
        bad="t.heap_min * 64 < %(threshold)s",
        value="coalesce(min(t.heap_min) * 64, 0)",
    ),
    "drift": _k_of_n(_DRIFT),
    "telemetry_gap": _GAPS.replace("{devices}", _DEVICES),
    "silent": _SILENT.replace("{devices}", _DEVICES),
}

# Reference: what was usual of the class and model in the week before, whatever its version then.
ACCURACY: Final = """
    WITH per AS (
        SELECT w.device_id, d.device_class_id AS device_class, w.version_id,
            sum(w.lab_ok)::float8 / sum(w.lab_n) AS mean, sum(w.lab_n) AS n
        FROM tele_window w JOIN devices_device d ON d.id = w.device_id
        WHERE w.ts > %(since)s AND w.ts <= %(now)s AND w.lab_n > 0 AND {scope} GROUP BY 1, 2, 3
    ), usual AS (
        SELECT m.device_class, v.model, sum(m.lab_ok)::float8 / sum(m.lab_n) AS mean, sum(m.lab_n) AS n
        FROM tele_minute m JOIN tele_version v ON v.id = m.version_id
        WHERE m.minute > %(reference)s AND m.minute <= %(since)s AND m.lab_n > 0 GROUP BY 1, 2
    )
    SELECT p.device_class, p.version_id, count(*) AS devices, sum(p.n) AS n, avg(p.mean) AS value,
        coalesce(stddev_samp(p.mean), 0) AS spread, min(u.mean) AS usual, coalesce(min(u.n), 0) AS usual_n,
        (array_agg(p.device_id ORDER BY p.mean, p.device_id))[1:200] AS ids
    FROM per p JOIN tele_version v ON v.id = p.version_id
    LEFT JOIN usual u ON u.device_class = p.device_class AND u.model = v.model
    GROUP BY p.device_class, p.version_id
"""
LATENCY: Final = """
    WITH usual AS (
        SELECT m.device_class, v.model, sum(m.n) AS n,
            percentile_cont(0.95) WITHIN GROUP (ORDER BY m.us_sum::float8 / m.n) AS us
        FROM tele_minute m JOIN tele_version v ON v.id = m.version_id
        WHERE m.minute > %(reference)s AND m.minute <= %(since)s AND m.n > 0 GROUP BY 1, 2
    )
    SELECT d.device_class_id AS device_class, w.version_id, count(DISTINCT w.device_id) AS devices,
        sum(w.n) AS n, percentile_cont(0.95) WITHIN GROUP (ORDER BY w.us_mean) AS value, 0 AS spread,
        min(u.us) AS usual, coalesce(min(u.n), 0) AS usual_n,
        (array_agg(DISTINCT w.device_id))[1:200] AS ids
    FROM tele_window w JOIN devices_device d ON d.id = w.device_id
    JOIN tele_version v ON v.id = w.version_id
    LEFT JOIN usual u ON u.device_class = d.device_class_id AND u.model = v.model
    WHERE w.ts > %(since)s AND w.ts <= %(now)s AND w.n > 0 AND {scope}
    GROUP BY d.device_class_id, w.version_id
"""
FLEET: Final = {"accuracy_drop": ACCURACY, "latency_budget": LATENCY}

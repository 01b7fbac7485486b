"""Rollups grow in the transaction of ingest, from rows that were really inserted and from nothing else.

What is here are parts of a statement that begins `WITH fresh AS (...)`, which holds the rows that are new:
what an INSERT returned, or, after a copy that nothing refused, all that were copied (`ingest`). Each part
adds what `fresh` holds to one table. A redelivery is in neither, so it adds nothing anywhere. Every upsert
groups by its key (a key twice in one statement is an error) and takes keys in order, so that two ingesting
slots never wait for each other in a circle; tables whose key has the slot do not make them wait at all.

`fresh` names its columns as the raw table does. Parameters: `slot` of the ingesting gateway, `now`.
"""

# ruff: noqa: S608 - statements are put together from constants of this module only

from datetime import timedelta
from typing import Final

from fleet.telemetry.histograms import CLASS, CONFIDENCE, DISTANCE, LATENCY, SIZES

LATE: Final = timedelta(minutes=5)
"""A record of an hour that ended so long ago marks it dirty; compaction closes an hour later than that."""
WINDOW_TABLES: Final = ("tele_window", "tele_minute", "tele_accuracy", "tele_device_day")
SKETCH_TABLES: Final = ("tele_sketch", "tele_accuracy", "tele_device_day")
INFERENCE_TABLES: Final = ("tele_inference", "tele_accuracy", "tele_device_day")
"""Tables with partitions that windows, sketches, or sampled inferences with their labels are written to."""

WINDOW_SUMS: Final = """count(*) AS windows, sum(f.n) AS n, sum(f.us_mean::bigint * f.n) AS us_sum,
        max(f.us_max) AS us_max, sum(f.anom_n) AS anom_n, sum(f.lab_n) AS lab_n, sum(f.lab_ok) AS lab_ok,
        sum(f.score::bigint * f.n) AS score_sum"""
SUM_NAMES: Final = "windows, n, us_sum, us_max, anom_n, lab_n, lab_ok, score_sum"
ADD_SUMS: Final = """windows = t.windows + EXCLUDED.windows, n = t.n + EXCLUDED.n,
        us_sum = t.us_sum + EXCLUDED.us_sum, us_max = greatest(t.us_max, EXCLUDED.us_max),
        anom_n = t.anom_n + EXCLUDED.anom_n, lab_n = t.lab_n + EXCLUDED.lab_n,
        lab_ok = t.lab_ok + EXCLUDED.lab_ok, score_sum = t.score_sum + EXCLUDED.score_sum"""
_ADD_COUNTS: Final = "n = t.n + EXCLUDED.n, ok = t.ok + EXCLUDED.ok"
_LAST: Final = (
    "device_id, ts, seq, version_id, slot, n, us_mean, us_max, score, top, anom_max, anom_n, lab_n, lab_ok,"
    " heap_min, rssi, flags"
)
_LAST_SET: Final = ", ".join(f"{name} = EXCLUDED.{name}" for name in _LAST.split(", ")[1:])
_WITH_CLASS: Final = "fresh f LEFT JOIN devices_device d ON d.id = f.device_id"
_CLASS: Final = "coalesce(d.device_class_id, '')"
_MINUTE, _HOUR, _DAY = (
    f"date_bin('1 {unit}', f.ts, 'epoch'::timestamptz)" for unit in ("minute", "hour", "day")
)
"""As date_trunc in UTC, without looking up the zone for each row."""

MINUTES: Final = f"""
    INSERT INTO tele_minute AS t (version_id, device_class, minute, ingest_slot, {SUM_NAMES})
    SELECT f.version_id, {_CLASS}, {_MINUTE}, %(slot)s, {WINDOW_SUMS}
    FROM {_WITH_CLASS} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (version_id, device_class, minute, ingest_slot) DO UPDATE SET {ADD_SUMS}
"""
PROXY: Final = f"""
    INSERT INTO tele_accuracy AS t (version_id, device_class, hour, kind, source, ingest_slot, n, ok)
    SELECT f.version_id, {_CLASS}, {_HOUR}, 'proxy', 'window', %(slot)s, sum(f.lab_n), sum(f.lab_ok)
    FROM {_WITH_CLASS} WHERE f.lab_n > 0 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (version_id, device_class, hour, kind, source, ingest_slot) DO UPDATE SET {_ADD_COUNTS}
"""
DEVICE_DAYS: Final = f"""
    INSERT INTO tele_device_day AS t (day, device_id, version_id, {SUM_NAMES}, anom_max)
    SELECT {_DAY}, f.device_id, f.version_id, {WINDOW_SUMS}, max(f.anom_max)
    FROM fresh f GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (day, device_id, version_id) DO UPDATE SET {ADD_SUMS},
        anom_max = greatest(t.anom_max, EXCLUDED.anom_max)
"""
NEWEST: Final = f"""
    INSERT INTO tele_device_last AS l ({_LAST})
    SELECT DISTINCT ON (device_id) {_LAST} FROM fresh ORDER BY device_id, ts DESC, seq DESC
    ON CONFLICT (device_id) DO UPDATE SET {_LAST_SET}
    WHERE (EXCLUDED.ts, EXCLUDED.seq) > (l.ts, l.seq)
"""
_DIRTY: Final = f"""
    INSERT INTO tele_dirty (hour) SELECT DISTINCT {_HOUR} FROM fresh f
    WHERE {_HOUR} <= %(now)s::timestamptz - interval '{int((LATE + timedelta(hours=1)).total_seconds())} s'
    ORDER BY 1
"""

JUDGEMENTS: Final = """
        SELECT 'golden' AS kind, 'device' AS source, (f.body->'golden'->>0)::bigint AS n,
            (f.body->'golden'->>1)::bigint AS ok
        WHERE f.body->'golden' IS NOT NULL
        UNION ALL
        SELECT 'proxy', CASE l->>0 WHEN '1' THEN 'actuator' ELSE 'user' END, (l->>1)::bigint, (l->>2)::bigint
        FROM jsonb_array_elements(f.body->'labels') l"""
"""Rows (kind, source, n, ok) of a sketch row `f`."""
JUDGED: Final = f"""
    INSERT INTO tele_accuracy AS t (version_id, device_class, hour, kind, source, ingest_slot, n, ok)
    SELECT f.version_id, {_CLASS}, {_HOUR}, k.kind, k.source, %(slot)s, sum(k.n), sum(k.ok)
    FROM {_WITH_CLASS} CROSS JOIN LATERAL ({JUDGEMENTS}) k
    WHERE k.n > 0 GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (version_id, device_class, hour, kind, source, ingest_slot) DO UPDATE SET {_ADD_COUNTS}
"""
GOLDEN_DAYS: Final = f"""
    INSERT INTO tele_device_day AS t (day, device_id, version_id, golden_n, golden_ok)
    SELECT {_DAY}, f.device_id, f.version_id, sum((f.body->'golden'->>0)::bigint),
        sum((f.body->'golden'->>1)::bigint)
    FROM fresh f WHERE f.body->'golden' IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (day, device_id, version_id) DO UPDATE SET golden_n = t.golden_n + EXCLUDED.golden_n,
        golden_ok = t.golden_ok + EXCLUDED.golden_ok
"""


def _lateral_list(metric: int, name: str) -> str:
    return f"""
        SELECT {metric}, (at - 1)::int, count::bigint
        FROM jsonb_array_elements_text(f.body->'{name}') WITH ORDINALITY AS e(count, at) WHERE count <> '0'"""


# A sketch that put 2^shift latency bins together says no more of a time: the middle one of them is meant.
BINS: Final = f"""
        SELECT {LATENCY} AS metric,
            least({SIZES[LATENCY] - 1}, ((e->>0)::int << s.shift) + (1 << s.shift >> 1)) AS bin,
            (e->>1)::bigint AS n
        FROM (SELECT coalesce((f.body->>'time_shift')::int, 0) AS shift) s,
            jsonb_array_elements(f.body->'times') e
        UNION ALL {_lateral_list(CLASS, "class_hist")}
        UNION ALL {_lateral_list(CONFIDENCE, "conf_hist")}
        UNION ALL {_lateral_list(DISTANCE, "embed_hist")}"""
"""Rows (metric, bin, n) of a sketch row `f`: bins of `fleet.telemetry.histograms`."""

LIVE_BINS: Final = f"""
    INSERT INTO tele_hist_live AS t (hour, version_id, device_class, metric, bin, ingest_slot, n)
    SELECT {_HOUR}, f.version_id, {_CLASS}, k.metric, k.bin, %(slot)s, sum(k.n)
    FROM {_WITH_CLASS} CROSS JOIN LATERAL ({BINS}) k GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (hour, version_id, device_class, metric, bin, ingest_slot) DO UPDATE SET n = t.n + EXCLUDED.n
"""

FROM_WINDOWS: Final = (
    f"minutes AS ({MINUTES}), proxy AS ({PROXY}), device_days AS ({DEVICE_DAYS}), newest AS ({NEWEST}),"
    f" dirty AS ({_DIRTY})"
)
"""Further parts of a WITH whose part `fresh` returns new windows."""
FROM_SKETCHES: Final = (
    f"judged AS ({JUDGED}), golden_days AS ({GOLDEN_DAYS}), live_bins AS ({LIVE_BINS}), dirty AS ({_DIRTY})"
)
"""Further parts of a WITH whose part `fresh` returns new sketches."""

"""Hours, days of a device, accuracy by kind, histograms, what is still to be compacted, references of
drift, and late labels.

What was rolled up before has no score sums, device days, accuracy or histograms: its hours are marked, and
compaction makes them anew from raw rows.
"""

from django.db import migrations, models

_MINUTE_SQL = "ALTER TABLE tele_minute ADD COLUMN score_sum bigint NOT NULL DEFAULT 0"

_HOUR_SQL = """
CREATE TABLE tele_hour (
    hour timestamptz NOT NULL,
    first_minute timestamptz NOT NULL,
    last_minute timestamptz NOT NULL,
    version_id bigint NOT NULL,
    windows bigint NOT NULL,
    n bigint NOT NULL,
    us_sum bigint NOT NULL,
    anom_n bigint NOT NULL,
    lab_n bigint NOT NULL,
    lab_ok bigint NOT NULL,
    score_sum bigint NOT NULL,
    us_max integer NOT NULL,
    device_class varchar(32) NOT NULL,
    CONSTRAINT tele_hour_pk PRIMARY KEY (version_id, device_class, hour)
) PARTITION BY RANGE (hour);
CREATE INDEX tele_hour_at ON tele_hour (hour);
"""

_DEVICE_DAY_SQL = """
CREATE TABLE tele_device_day (
    day timestamptz NOT NULL,
    version_id bigint NOT NULL,
    windows bigint NOT NULL DEFAULT 0,
    n bigint NOT NULL DEFAULT 0,
    us_sum bigint NOT NULL DEFAULT 0,
    anom_n bigint NOT NULL DEFAULT 0,
    lab_n bigint NOT NULL DEFAULT 0,
    lab_ok bigint NOT NULL DEFAULT 0,
    score_sum bigint NOT NULL DEFAULT 0,
    golden_n bigint NOT NULL DEFAULT 0,
    golden_ok bigint NOT NULL DEFAULT 0,
    delayed_n bigint NOT NULL DEFAULT 0,
    delayed_ok bigint NOT NULL DEFAULT 0,
    us_max integer NOT NULL DEFAULT 0,
    anom_max integer NOT NULL DEFAULT 0,
    device_id varchar(32) NOT NULL,
    CONSTRAINT tele_device_day_pk PRIMARY KEY (day, device_id, version_id)
) PARTITION BY RANGE (day);
"""

_ACCURACY_SQL = """
CREATE TABLE tele_accuracy (
    hour timestamptz NOT NULL,
    version_id bigint NOT NULL,
    n bigint NOT NULL,
    ok bigint NOT NULL,
    ingest_slot smallint NOT NULL,
    kind varchar(8) NOT NULL,
    source varchar(16) NOT NULL,
    device_class varchar(32) NOT NULL,
    CONSTRAINT tele_accuracy_pk PRIMARY KEY (version_id, device_class, hour, kind, source, ingest_slot)
) PARTITION BY RANGE (hour);
CREATE INDEX tele_accuracy_at ON tele_accuracy (hour);
"""

_HIST_SQL = """
CREATE TABLE tele_hist (
    start timestamptz NOT NULL,
    version_id bigint NOT NULL,
    n bigint NOT NULL,
    span_s integer NOT NULL,
    metric smallint NOT NULL,
    first_bin smallint NOT NULL,
    device_class varchar(32) NOT NULL,
    counts bytea NOT NULL,
    CONSTRAINT tele_hist_pk PRIMARY KEY (metric, span_s, start, version_id, device_class)
) PARTITION BY RANGE (start);
"""

# Unfinished hours only: rows are many times updated and soon gone.
_LIVE_SQL = "ALTER TABLE tele_hist_live SET (fillfactor = 50)"

_MARK_SQL = """
INSERT INTO tele_dirty (hour, is_from_raw)
SELECT date_trunc('hour', minute, 'UTC'), true FROM tele_minute
UNION SELECT date_trunc('hour', ts, 'UTC'), true FROM tele_sketch
"""


def _key(*names: str) -> models.CompositePrimaryKey:
    return models.CompositePrimaryKey(*names, blank=True, editable=False, primary_key=True, serialize=False)


def _by_hand(model: migrations.CreateModel, sql: str) -> migrations.SeparateDatabaseAndState:
    undo = f"DROP TABLE {model.options['db_table']}"
    return migrations.SeparateDatabaseAndState(
        database_operations=[migrations.RunSQL(sql, undo)], state_operations=[model]
    )


_SUMS = ("windows", "n", "us_sum", "anom_n", "lab_n", "lab_ok", "score_sum")


class Migration(migrations.Migration):

    dependencies = [("telemetry", "0002_samples")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(_MINUTE_SQL, "ALTER TABLE tele_minute DROP COLUMN score_sum")
            ],
            state_operations=[migrations.AddField("Minute", "score_sum", models.BigIntegerField(default=0))],
        ),
        _by_hand(
            migrations.CreateModel(
                name="Hour",
                fields=[
                    ("pk", _key("version_id", "device_class", "hour")),
                    ("hour", models.DateTimeField()),
                    ("version_id", models.BigIntegerField()),
                    ("device_class", models.CharField(max_length=32)),
                    *((name, models.BigIntegerField()) for name in _SUMS),
                    ("us_max", models.IntegerField()),
                    ("first_minute", models.DateTimeField()),
                    ("last_minute", models.DateTimeField()),
                ],
                options={"db_table": "tele_hour"},
            ),
            _HOUR_SQL,
        ),
        _by_hand(
            migrations.CreateModel(
                name="DeviceDay",
                fields=[
                    ("pk", _key("day", "device_id", "version_id")),
                    ("day", models.DateTimeField()),
                    ("device_id", models.CharField(max_length=32)),
                    ("version_id", models.BigIntegerField()),
                    *((name, models.BigIntegerField(default=0)) for name in _SUMS),
                    ("golden_n", models.BigIntegerField(default=0)),
                    ("golden_ok", models.BigIntegerField(default=0)),
                    ("delayed_n", models.BigIntegerField(default=0)),
                    ("delayed_ok", models.BigIntegerField(default=0)),
                    ("us_max", models.IntegerField(default=0)),
                    ("anom_max", models.IntegerField(default=0)),
                ],
                options={"db_table": "tele_device_day"},
            ),
            _DEVICE_DAY_SQL,
        ),
        _by_hand(
            migrations.CreateModel(
                name="Accuracy",
                fields=[
                    ("pk", _key("version_id", "device_class", "hour", "kind", "source", "ingest_slot")),
                    ("hour", models.DateTimeField()),
                    ("version_id", models.BigIntegerField()),
                    ("device_class", models.CharField(max_length=32)),
                    ("kind", models.CharField(max_length=8)),
                    ("source", models.CharField(max_length=16)),
                    ("ingest_slot", models.SmallIntegerField()),
                    ("n", models.BigIntegerField()),
                    ("ok", models.BigIntegerField()),
                ],
                options={"db_table": "tele_accuracy"},
            ),
            _ACCURACY_SQL,
        ),
        _by_hand(
            migrations.CreateModel(
                name="Histogram",
                fields=[
                    ("pk", _key("metric", "span_s", "start", "version_id", "device_class")),
                    ("start", models.DateTimeField()),
                    ("version_id", models.BigIntegerField()),
                    ("device_class", models.CharField(max_length=32)),
                    ("metric", models.SmallIntegerField()),
                    ("span_s", models.IntegerField()),
                    ("n", models.BigIntegerField()),
                    ("first_bin", models.SmallIntegerField()),
                    ("counts", models.BinaryField()),
                ],
                options={"db_table": "tele_hist"},
            ),
            _HIST_SQL,
        ),
        migrations.CreateModel(
            name="LiveBin",
            fields=[
                ("pk", _key("hour", "version_id", "device_class", "metric", "bin", "ingest_slot")),
                ("hour", models.DateTimeField()),
                ("version_id", models.BigIntegerField()),
                ("device_class", models.CharField(max_length=32)),
                ("metric", models.SmallIntegerField()),
                ("bin", models.SmallIntegerField()),
                ("ingest_slot", models.SmallIntegerField()),
                ("n", models.BigIntegerField()),
            ],
            options={"db_table": "tele_hist_live"},
        ),
        migrations.RunSQL(_LIVE_SQL, migrations.RunSQL.noop),
        migrations.CreateModel(
            name="DirtyHour",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("hour", models.DateTimeField(db_index=True)),
                ("is_from_raw", models.BooleanField(db_default=False)),
            ],
            options={"db_table": "tele_dirty"},
        ),
        migrations.CreateModel(
            name="Compaction",
            fields=[
                ("name", models.CharField(max_length=16, primary_key=True, serialize=False)),
                ("until", models.DateTimeField()),
            ],
            options={"db_table": "tele_compaction"},
        ),
        migrations.RunSQL(_MARK_SQL, migrations.RunSQL.noop),
        migrations.CreateModel(
            name="Baseline",
            fields=[
                ("pk", _key("version_id", "device_class", "metric")),
                ("version_id", models.BigIntegerField()),
                ("device_class", models.CharField(max_length=32)),
                ("metric", models.SmallIntegerField()),
                ("started_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField()),
                ("n", models.BigIntegerField()),
                ("first_bin", models.SmallIntegerField()),
                ("counts", models.BinaryField()),
                ("inflation", models.FloatField()),
                ("made_at", models.DateTimeField()),
            ],
            options={"db_table": "tele_baseline"},
        ),
        migrations.CreateModel(
            name="Label",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("device_id", models.CharField(max_length=32)),
                ("sample", models.BigIntegerField()),
                ("label", models.SmallIntegerField()),
                ("source", models.CharField(max_length=16)),
                ("rank", models.SmallIntegerField()),
                ("at", models.DateTimeField()),
                ("received_at", models.DateTimeField()),
                ("probe_at", models.DateTimeField()),
                ("state", models.CharField(max_length=10)),
                ("ts", models.DateTimeField(null=True)),
                ("version_id", models.BigIntegerField(null=True)),
                ("top", models.SmallIntegerField(null=True)),
                ("device_class", models.CharField(blank=True, default="", max_length=32)),
            ],
            options={
                "db_table": "tele_label",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("device_id", "sample", "source", "at", "label"), name="tele_label_once"
                    ),
                ],
                "indexes": [
                    models.Index(
                        fields=["probe_at"], condition=models.Q(state="pending"), name="tele_label_pending"
                    ),
                    models.Index(fields=["ts"], condition=models.Q(state="counted"), name="tele_label_ts"),
                ],
            },
        ),
    ]

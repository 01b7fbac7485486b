"""Telemetry tables. Windows, minute rollups and dead letters are partitioned by day, which the ORM cannot say."""

from django.db import migrations, models

_WINDOW_SQL = """
CREATE TABLE tele_window (
    ts timestamptz NOT NULL,
    seq bigint NOT NULL,
    version_id bigint NOT NULL,
    device_id varchar(32) NOT NULL,
    dt_ms integer NOT NULL,
    n integer NOT NULL,
    us_mean integer NOT NULL,
    us_max integer NOT NULL,
    anom_max integer NOT NULL,
    anom_n integer NOT NULL,
    heap_min integer NOT NULL,
    lag_s integer NOT NULL,
    score smallint NOT NULL,
    top smallint NOT NULL,
    lab_n smallint NOT NULL,
    lab_ok smallint NOT NULL,
    rssi smallint NOT NULL,
    flags smallint NOT NULL,
    slot smallint NOT NULL,
    clock smallint NOT NULL,
    CONSTRAINT tele_window_pk PRIMARY KEY (device_id, ts, seq)
) PARTITION BY RANGE (ts);
CREATE INDEX tele_window_ts ON tele_window USING brin (ts);
"""

_MINUTE_SQL = """
CREATE TABLE tele_minute (
    minute timestamptz NOT NULL,
    version_id bigint NOT NULL,
    windows bigint NOT NULL,
    n bigint NOT NULL,
    us_sum bigint NOT NULL,
    anom_n bigint NOT NULL,
    lab_n bigint NOT NULL,
    lab_ok bigint NOT NULL,
    us_max integer NOT NULL,
    ingest_slot smallint NOT NULL,
    device_class varchar(32) NOT NULL,
    CONSTRAINT tele_minute_pk PRIMARY KEY (version_id, device_class, minute, ingest_slot)
) PARTITION BY RANGE (minute);
"""

_DEAD_SQL = """
CREATE SEQUENCE tele_dead_id_seq;
CREATE TABLE tele_dead (
    at timestamptz NOT NULL,
    id bigint NOT NULL DEFAULT nextval('tele_dead_id_seq'),
    ingest_slot smallint NOT NULL,
    device_id varchar(32) NOT NULL,
    topic varchar(128) NOT NULL,
    code varchar(32) NOT NULL,
    detail varchar(256) NOT NULL,
    payload bytea NOT NULL,
    CONSTRAINT tele_dead_pk PRIMARY KEY (at, id)
) PARTITION BY RANGE (at);
CREATE INDEX tele_dead_code ON tele_dead (code, at);
"""


def _by_hand(model: migrations.CreateModel, sql: str, undo: str) -> migrations.SeparateDatabaseAndState:
    return migrations.SeparateDatabaseAndState(
        database_operations=[migrations.RunSQL(sql, undo)], state_operations=[model]
    )


class Migration(migrations.Migration):

    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Version",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("model", models.CharField(max_length=32)),
                ("version", models.CharField(max_length=24)),
                ("mid", models.CharField(max_length=16)),
                ("first_seen_at", models.DateTimeField()),
            ],
            options={
                "db_table": "tele_version",
                "constraints": [
                    models.UniqueConstraint(fields=("mid", "model", "version"), name="tele_version_once")
                ],
            },
        ),
        migrations.CreateModel(
            name="DeviceLast",
            fields=[
                ("device_id", models.CharField(max_length=32, primary_key=True, serialize=False)),
                ("ts", models.DateTimeField()),
                ("seq", models.BigIntegerField()),
                ("version_id", models.BigIntegerField(db_index=True)),
                ("slot", models.SmallIntegerField()),
                ("n", models.IntegerField()),
                ("us_mean", models.IntegerField()),
                ("us_max", models.IntegerField()),
                ("score", models.SmallIntegerField()),
                ("top", models.SmallIntegerField()),
                ("anom_max", models.IntegerField()),
                ("anom_n", models.IntegerField()),
                ("lab_n", models.SmallIntegerField()),
                ("lab_ok", models.SmallIntegerField()),
                ("heap_min", models.IntegerField()),
                ("rssi", models.SmallIntegerField()),
                ("flags", models.SmallIntegerField()),
            ],
            options={"db_table": "tele_device_last"},
        ),
        migrations.RunSQL("ALTER TABLE tele_device_last SET (fillfactor = 50)", migrations.RunSQL.noop),
        _by_hand(
            migrations.CreateModel(
                name="Window",
                fields=[
                    (
                        "pk",
                        models.CompositePrimaryKey(
                            "device_id", "ts", "seq", blank=True, editable=False, primary_key=True, serialize=False
                        ),
                    ),
                    ("ts", models.DateTimeField()),
                    ("seq", models.BigIntegerField()),
                    ("device_id", models.CharField(max_length=32)),
                    ("version_id", models.BigIntegerField()),
                    ("dt_ms", models.IntegerField()),
                    ("n", models.IntegerField()),
                    ("us_mean", models.IntegerField()),
                    ("us_max", models.IntegerField()),
                    ("anom_max", models.IntegerField()),
                    ("anom_n", models.IntegerField()),
                    ("heap_min", models.IntegerField()),
                    ("lag_s", models.IntegerField()),
                    ("score", models.SmallIntegerField()),
                    ("top", models.SmallIntegerField()),
                    ("lab_n", models.SmallIntegerField()),
                    ("lab_ok", models.SmallIntegerField()),
                    ("rssi", models.SmallIntegerField()),
                    ("flags", models.SmallIntegerField()),
                    ("slot", models.SmallIntegerField()),
                    ("clock", models.SmallIntegerField()),
                ],
                options={"db_table": "tele_window"},
            ),
            _WINDOW_SQL,
            "DROP TABLE tele_window",
        ),
        _by_hand(
            migrations.CreateModel(
                name="Minute",
                fields=[
                    (
                        "pk",
                        models.CompositePrimaryKey(
                            "version_id",
                            "device_class",
                            "minute",
                            "ingest_slot",
                            blank=True,
                            editable=False,
                            primary_key=True,
                            serialize=False,
                        ),
                    ),
                    ("minute", models.DateTimeField()),
                    ("version_id", models.BigIntegerField()),
                    ("device_class", models.CharField(max_length=32)),
                    ("ingest_slot", models.SmallIntegerField()),
                    ("windows", models.BigIntegerField()),
                    ("n", models.BigIntegerField()),
                    ("us_sum", models.BigIntegerField()),
                    ("us_max", models.IntegerField()),
                    ("anom_n", models.BigIntegerField()),
                    ("lab_n", models.BigIntegerField()),
                    ("lab_ok", models.BigIntegerField()),
                ],
                options={"db_table": "tele_minute"},
            ),
            _MINUTE_SQL,
            "DROP TABLE tele_minute",
        ),
        _by_hand(
            migrations.CreateModel(
                name="DeadLetter",
                fields=[
                    (
                        "pk",
                        models.CompositePrimaryKey(
                            "at", "id", blank=True, editable=False, primary_key=True, serialize=False
                        ),
                    ),
                    ("at", models.DateTimeField()),
                    ("id", models.BigIntegerField()),
                    ("ingest_slot", models.SmallIntegerField()),
                    ("device_id", models.CharField(max_length=32)),
                    ("topic", models.CharField(max_length=128)),
                    ("code", models.CharField(max_length=32)),
                    ("detail", models.CharField(max_length=256)),
                    ("payload", models.BinaryField()),
                ],
                options={"db_table": "tele_dead"},
            ),
            _DEAD_SQL,
            "DROP TABLE tele_dead; DROP SEQUENCE tele_dead_id_seq",
        ),
    ]

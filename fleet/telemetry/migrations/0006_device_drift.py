"""Drift of single devices: references, and each window against its own."""

from django.db import migrations, models

_DRIFT_SQL = """
CREATE TABLE tele_drift (
    ts timestamptz NOT NULL,
    seq bigint NOT NULL,
    version_id bigint NOT NULL,
    n integer NOT NULL,
    worst real NOT NULL,
    input real,
    class_psi real,
    class_limit real,
    distance_psi real,
    distance_limit real,
    confidence real,
    channel smallint,
    moment smallint,
    device_id varchar(32) NOT NULL,
    device_class varchar(32) NOT NULL,
    reference varchar(8) NOT NULL,
    CONSTRAINT tele_drift_pk PRIMARY KEY (device_id, ts, seq)
) PARTITION BY RANGE (ts);
CREATE INDEX tele_drift_ts ON tele_drift USING brin (ts);
"""


def _key(*names: str) -> models.CompositePrimaryKey:
    return models.CompositePrimaryKey(*names, blank=True, editable=False, primary_key=True, serialize=False)


class Migration(migrations.Migration):

    dependencies = [("telemetry", "0005_gap_times")]

    operations = [
        migrations.CreateModel(
            name="DriftReference",
            fields=[
                ("pk", _key("version_id", "device_class")),
                ("version_id", models.BigIntegerField()),
                ("device_class", models.CharField(max_length=32)),
                ("kind", models.CharField(max_length=8)),
                ("started_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField()),
                ("windows", models.IntegerField()),
                ("devices", models.IntegerField()),
                ("n", models.BigIntegerField()),
                ("body", models.JSONField()),
                ("made_at", models.DateTimeField()),
            ],
            options={"db_table": "tele_drift_reference"},
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(_DRIFT_SQL, "DROP TABLE tele_drift")],
            state_operations=[
                migrations.CreateModel(
                    name="WindowDrift",
                    fields=[
                        ("pk", _key("device_id", "ts", "seq")),
                        ("ts", models.DateTimeField()),
                        ("seq", models.BigIntegerField()),
                        ("version_id", models.BigIntegerField()),
                        ("n", models.IntegerField()),
                        ("worst", models.FloatField()),
                        *(
                            (name, models.FloatField(null=True))
                            for name in (
                                "input", "class_psi", "class_limit", "distance_psi", "distance_limit",
                                "confidence",
                            )
                        ),
                        ("channel", models.SmallIntegerField(null=True)),
                        ("moment", models.SmallIntegerField(null=True)),
                        ("device_id", models.CharField(max_length=32)),
                        ("device_class", models.CharField(max_length=32)),
                        ("reference", models.CharField(max_length=8)),
                    ],
                    options={"db_table": "tele_drift"},
                )
            ],
        ),
    ]

"""Sampled inferences and sketches, partitioned by day like windows."""

from django.db import migrations, models

_INFERENCE_SQL = """
CREATE TABLE tele_inference (
    sample bigint NOT NULL,
    ts timestamptz NOT NULL,
    seq bigint NOT NULL,
    version_id bigint NOT NULL,
    device_id varchar(32) NOT NULL,
    anom integer NOT NULL,
    us integer NOT NULL,
    lag_s integer NOT NULL,
    top smallint NOT NULL,
    score smallint NOT NULL,
    margin smallint NOT NULL,
    why smallint NOT NULL,
    slot smallint NOT NULL,
    clock smallint NOT NULL,
    CONSTRAINT tele_inference_pk PRIMARY KEY (device_id, sample, ts)
) PARTITION BY RANGE (ts);
CREATE INDEX tele_inference_ts ON tele_inference USING brin (ts);
"""

_SKETCH_SQL = """
CREATE TABLE tele_sketch (
    ts timestamptz NOT NULL,
    seq bigint NOT NULL,
    version_id bigint NOT NULL,
    device_id varchar(32) NOT NULL,
    duration_s bigint NOT NULL,
    n integer NOT NULL,
    lag_s integer NOT NULL,
    slot smallint NOT NULL,
    clock smallint NOT NULL,
    body jsonb NOT NULL,
    CONSTRAINT tele_sketch_pk PRIMARY KEY (device_id, ts, seq)
) PARTITION BY RANGE (ts);
CREATE INDEX tele_sketch_ts ON tele_sketch USING brin (ts);
"""


def _key(*names: str) -> models.CompositePrimaryKey:
    return models.CompositePrimaryKey(*names, blank=True, editable=False, primary_key=True, serialize=False)


class Migration(migrations.Migration):

    dependencies = [("telemetry", "0001_initial")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(_INFERENCE_SQL, "DROP TABLE tele_inference")],
            state_operations=[
                migrations.CreateModel(
                    name="Inference",
                    fields=[
                        ("pk", _key("device_id", "sample", "ts")),
                        ("sample", models.BigIntegerField()),
                        ("ts", models.DateTimeField()),
                        ("seq", models.BigIntegerField()),
                        ("version_id", models.BigIntegerField()),
                        ("device_id", models.CharField(max_length=32)),
                        ("anom", models.IntegerField()),
                        ("us", models.IntegerField()),
                        ("lag_s", models.IntegerField()),
                        ("top", models.SmallIntegerField()),
                        ("score", models.SmallIntegerField()),
                        ("margin", models.SmallIntegerField()),
                        ("why", models.SmallIntegerField()),
                        ("slot", models.SmallIntegerField()),
                        ("clock", models.SmallIntegerField()),
                    ],
                    options={"db_table": "tele_inference"},
                )
            ],
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(_SKETCH_SQL, "DROP TABLE tele_sketch")],
            state_operations=[
                migrations.CreateModel(
                    name="Sketch",
                    fields=[
                        ("pk", _key("device_id", "ts", "seq")),
                        ("ts", models.DateTimeField()),
                        ("seq", models.BigIntegerField()),
                        ("version_id", models.BigIntegerField()),
                        ("device_id", models.CharField(max_length=32)),
                        ("duration_s", models.BigIntegerField()),
                        ("n", models.IntegerField()),
                        ("lag_s", models.IntegerField()),
                        ("slot", models.SmallIntegerField()),
                        ("clock", models.SmallIntegerField()),
                        ("body", models.JSONField()),
                    ],
                    options={"db_table": "tele_sketch"},
                )
            ],
        ),
    ]

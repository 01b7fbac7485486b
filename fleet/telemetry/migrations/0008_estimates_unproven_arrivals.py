"""Lines from confidence to accuracy, drifting devices found without reading the clean ones, windows that came
without a MAC, and how many messages were refused.
"""

from django.db import migrations, models

_NUMBERS = ("n", "us_mean", "us_max", "anom_max", "anom_n", "heap_min")
_SMALL = ("score", "top", "lab_n", "lab_ok", "rssi", "flags", "slot")
_INDEX = "CREATE INDEX tele_drift_flagged ON tele_drift (ts) WHERE worst > 1"


class Migration(migrations.Migration):

    dependencies = [("telemetry", "0007_ingesters_exports_cold")]

    operations = [
        migrations.CreateModel(
            name="Calibration",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "version_id", "device_class", blank=True, editable=False, primary_key=True,
                        serialize=False,
                    ),
                ),
                ("version_id", models.BigIntegerField()),
                ("device_class", models.CharField(max_length=32)),
                ("kind", models.CharField(blank=True, default="", max_length=8)),
                ("started_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField()),
                ("n", models.BigIntegerField(default=0)),
                ("devices", models.IntegerField(default=0)),
                ("intercept", models.FloatField(default=0)),
                ("slope", models.FloatField(default=0)),
                ("centre", models.FloatField(default=0)),
                ("slope_variance", models.FloatField(default=0)),
                ("residual", models.FloatField(default=0)),
                ("tried_at", models.DateTimeField()),
                ("made_at", models.DateTimeField(null=True)),
            ],
            options={"db_table": "tele_calibration"},
        ),
        migrations.CreateModel(
            name="UnprovenWindow",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "device_id", "ts", "seq", blank=True, editable=False, primary_key=True,
                        serialize=False,
                    ),
                ),
                ("device_id", models.CharField(max_length=32)),
                ("ts", models.DateTimeField()),
                ("seq", models.BigIntegerField()),
                ("received_at", models.DateTimeField(db_index=True)),
                *((name, models.IntegerField()) for name in _NUMBERS),
                *((name, models.SmallIntegerField()) for name in _SMALL),
                ("model", models.CharField(max_length=32)),
                ("version", models.CharField(max_length=24)),
                ("mid", models.CharField(max_length=16)),
            ],
            options={"db_table": "tele_unproven"},
        ),
        migrations.CreateModel(
            name="Arrivals",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "minute", "ingest_slot", blank=True, editable=False, primary_key=True,
                        serialize=False,
                    ),
                ),
                ("minute", models.DateTimeField()),
                ("ingest_slot", models.SmallIntegerField()),
                ("messages", models.BigIntegerField()),
                ("refused", models.BigIntegerField()),
            ],
            options={"db_table": "tele_arrivals"},
        ),
        migrations.AddField(
            "version", "first_device",
            models.CharField(blank=True, db_default="", default="", max_length=32),
        ),
        migrations.AddIndex(
            "version", models.Index(fields=["first_device", "first_seen_at"], name="tele_version_first")
        ),
        migrations.RunSQL(_INDEX, "DROP INDEX tele_drift_flagged"),
    ]

"""What gateways say of themselves, large exports, and which raw partitions became Parquet."""

import fleet.ids
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [("telemetry", "0006_device_drift")]

    operations = [
        migrations.CreateModel(
            name="Ingester",
            fields=[
                ("name", models.CharField(max_length=32, primary_key=True, serialize=False)),
                ("told_at", models.DateTimeField()),
                ("unacked_since", models.DateTimeField(null=True)),
                ("messages", models.IntegerField()),
            ],
            options={"db_table": "tele_ingester"},
        ),
        migrations.CreateModel(
            name="ExportJob",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=fleet.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("kind", models.CharField(max_length=16)),
                ("form", models.CharField(max_length=16)),
                ("start", models.DateTimeField()),
                ("end", models.DateTimeField()),
                ("q", models.TextField(blank=True, default="")),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("queued", "Queued"),
                            ("running", "Running"),
                            ("succeeded", "Succeeded"),
                            ("failed", "Failed"),
                            ("cancelled", "Cancelled"),
                        ],
                        default="queued",
                        max_length=16,
                    ),
                ),
                ("done", models.BigIntegerField(default=0)),
                ("total", models.BigIntegerField(null=True)),
                ("reached", models.DateTimeField()),
                ("step_s", models.FloatField(default=0)),
                ("parts", models.IntegerField(default=0)),
                ("size", models.BigIntegerField(null=True)),
                ("problem", models.JSONField(null=True)),
                ("actor", models.JSONField()),
                ("asked_at", models.DateTimeField()),
                ("finished_at", models.DateTimeField(null=True)),
            ],
            options={"db_table": "tele_export", "ordering": ["-asked_at", "-id"]},
        ),
        migrations.CreateModel(
            name="ColdPart",
            fields=[
                ("name", models.CharField(max_length=40, primary_key=True, serialize=False)),
                ("kind", models.CharField(max_length=16)),
                ("day", models.DateField()),
                ("rows", models.BigIntegerField(default=0)),
                ("seq_min", models.BigIntegerField(null=True)),
                ("seq_max", models.BigIntegerField(null=True)),
                ("seq_sum", models.DecimalField(decimal_places=0, default=0, max_digits=38)),
                ("size", models.BigIntegerField(default=0)),
                ("problem", models.CharField(blank=True, default="", max_length=256)),
                ("tried_at", models.DateTimeField()),
                ("exported_at", models.DateTimeField(null=True)),
            ],
            options={"db_table": "tele_cold"},
        ),
    ]

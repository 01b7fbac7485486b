"""Which counters of each boot arrived, and the gaps between them.

What a device sent before is taken as received up to its newest window: nobody kept count, and the device
holds little of it.
"""

from django.db import migrations, models

_BOOT_SQL = """
CREATE TABLE tele_boot (
    boot bigint NOT NULL,
    highest bigint NOT NULL,
    received bigint NOT NULL,
    scattered bigint NOT NULL DEFAULT 0,
    heard_at timestamptz NOT NULL,
    unsettled_at timestamptz,
    device_id varchar(32) NOT NULL,
    counters int8multirange NOT NULL,
    filled int8multirange NOT NULL DEFAULT '{}',
    CONSTRAINT tele_boot_pk PRIMARY KEY (device_id, boot)
) WITH (fillfactor = 50);
CREATE INDEX tele_boot_unsettled ON tele_boot (unsettled_at) WHERE unsettled_at IS NOT NULL;
"""

_FILL_SQL = """
INSERT INTO tele_boot (device_id, boot, highest, received, heard_at, counters)
SELECT device_id, seq >> 32, seq & 4294967295, (seq & 4294967295) + 1, ts,
    int8multirange(int8range(0, (seq & 4294967295) + 1))
FROM tele_device_last;
"""


class Migration(migrations.Migration):

    dependencies = [("telemetry", "0003_rollups_and_labels")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(_BOOT_SQL, "DROP TABLE tele_boot")],
            state_operations=[
                migrations.CreateModel(
                    name="Boot",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "device_id", "boot", blank=True, editable=False, primary_key=True, serialize=False
                            ),
                        ),
                        ("device_id", models.CharField(max_length=32)),
                        ("boot", models.BigIntegerField()),
                        ("highest", models.BigIntegerField()),
                        ("received", models.BigIntegerField()),
                        ("scattered", models.BigIntegerField(db_default=0)),
                        ("heard_at", models.DateTimeField()),
                        ("unsettled_at", models.DateTimeField(null=True)),
                    ],
                    options={"db_table": "tele_boot"},
                ),
            ],
        ),
        migrations.RunSQL(_FILL_SQL, migrations.RunSQL.noop),
        migrations.CreateModel(
            name="Gap",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("device_id", models.CharField(max_length=32)),
                ("boot", models.BigIntegerField()),
                ("first", models.BigIntegerField()),
                ("last", models.BigIntegerField()),
                ("records", models.BigIntegerField()),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("open", "Open"), ("asked", "Asked"), ("repaired", "Repaired"), ("lost", "Lost"),
                        ],
                        max_length=16,
                    ),
                ),
                ("cause", models.CharField(db_default="", max_length=32)),
                ("tries", models.SmallIntegerField(db_default=0)),
                ("command", models.BigIntegerField(db_default=0)),
                ("found_at", models.DateTimeField()),
                ("asked_at", models.DateTimeField(null=True)),
                ("closed_at", models.DateTimeField(null=True)),
            ],
            options={"db_table": "tele_gap"},
        ),
        migrations.AddConstraint(
            "Gap", models.UniqueConstraint(fields=("device_id", "boot", "first"), name="tele_gap_once")
        ),
        migrations.AddIndex(
            "Gap",
            models.Index(
                fields=["id"], name="tele_gap_pending", condition=models.Q(("state__in", ("open", "asked")))
            ),
        ),
    ]

"""When the records of a gap were measured. Gaps that are there already are placed by the next turn."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [("telemetry", "0004_gaps")]

    operations = [
        migrations.AddField("Gap", "since_at", models.DateTimeField(null=True)),
        migrations.AddField("Gap", "until_at", models.DateTimeField(null=True)),
        migrations.AddIndex(
            "Gap",
            models.Index(
                fields=["id"], name="tele_gap_unplaced", condition=models.Q(("until_at", None))
            ),
        ),
        migrations.AddIndex(
            "Gap",
            models.Index(
                fields=["until_at"], name="tele_gap_missing", condition=~models.Q(("state", "repaired"))
            ),
        ),
    ]

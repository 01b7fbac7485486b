from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("ota", "0009_job_counts"),
    ]

    operations = [
        migrations.AddField(
            model_name="wave",
            name="rev",
            field=models.PositiveIntegerField(default=1),
        ),
    ]

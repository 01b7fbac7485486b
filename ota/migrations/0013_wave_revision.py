from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("ota", "0012_job_list_by_device"),
    ]

    operations = [
        migrations.AddField(
            model_name="wave",
            name="rev",
            field=models.PositiveIntegerField(default=1),
        ),
    ]

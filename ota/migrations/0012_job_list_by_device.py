from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("ota", "0011_lists_of_large_rollouts")]

    operations = [
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["rollout", "device", "id"], name="job_rollout_device"),
        ),
    ]

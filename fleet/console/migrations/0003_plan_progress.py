import django.db.models.deletion
import fleet.ids
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("console", "0002_sent_forms"),
        ('ota', '0014_rollout_alias'),
    ]

    operations = [
        migrations.CreateModel(
            name='PlanProgress',
            fields=[
                ('rollout', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='+', serialize=False, to='ota.rollout')),
                ('made_by', models.UUIDField(default=fleet.ids.uuid7, unique=True)),
                ('preset', models.CharField(max_length=16)),
                ('saved', models.JSONField(default=list)),
            ],
        ),
    ]

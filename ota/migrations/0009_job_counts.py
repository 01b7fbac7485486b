from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ota', '0008_aliases_and_fleet_samples'),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name='job',
            name='job_wave_state',
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(fields=['wave', 'state'], include=('kind', 'is_reconciled'), name='job_wave_counts'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(fields=['rollout', 'id'], name='job_rollout_page'),
        ),
    ]

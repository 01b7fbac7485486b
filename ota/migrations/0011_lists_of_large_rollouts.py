from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ota', '0010_indexes_of_jobs'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='membership',
            index=models.Index(condition=models.Q(('arm', 'skipped')), fields=['rollout', 'skip_reason'], name='member_skipped'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('code', ''), _negated=True), fields=['rollout', 'code', 'id'], name='job_codes'),
        ),
    ]

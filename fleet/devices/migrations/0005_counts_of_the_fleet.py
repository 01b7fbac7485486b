from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('devices', '0004_class_revision'),
    ]

    operations = [
        migrations.AlterField(
            model_name='deviceslot',
            name='run',
            field=models.CharField(blank=True, default='', max_length=32),
        ),
        migrations.AddIndex(
            model_name='device',
            index=models.Index(condition=models.Q(('retired_at__isnull', True)), fields=['device_class', 'id'], name='device_in_service'),
        ),
        migrations.AddIndex(
            model_name='device',
            index=models.Index(condition=models.Q(('retired_at__isnull', False)), fields=['id'], name='device_retired'),
        ),
        migrations.AddIndex(
            model_name='deviceslot',
            index=models.Index(fields=['run', 'slot', 'device'], include=('arena_used', 'run_flags'), name='slot_runs', opclasses=['varchar_pattern_ops', 'int2_ops', 'varchar_ops']),
        ),
    ]

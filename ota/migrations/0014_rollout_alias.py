from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("ota", "0013_wave_revision"),
    ]

    operations = [
        migrations.AddField(
            model_name='rollout',
            name='alias',
            field=models.CharField(blank=True, default='', max_length=32),
        ),
    ]

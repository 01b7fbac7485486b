from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('devices', '0003_report_made_at'),
    ]

    operations = [
        migrations.AddField(
            model_name='deviceclass',
            name='rev',
            field=models.PositiveIntegerField(default=1),
        ),
    ]

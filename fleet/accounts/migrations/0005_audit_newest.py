from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0004_audit_filters_and_checks'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='auditevent',
            index=models.Index(condition=models.Q(('subject_kind__in', ('job', 'wave')), _negated=True), fields=['-at', '-id'], name='audit_newest'),
        ),
    ]

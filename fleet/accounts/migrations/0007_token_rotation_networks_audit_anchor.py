from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0006_audit_kinds"),
    ]

    operations = [
        migrations.AddField(
            model_name="apitoken",
            name="former_digest",
            field=models.BinaryField(null=True),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="former_until",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="former_used_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="networks",
            field=models.JSONField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="rev",
            field=models.PositiveIntegerField(default=1),
        ),
        migrations.CreateModel(
            name="AuditAnchor",
            fields=[
                ("n", models.PositiveIntegerField(primary_key=True, serialize=False)),
                ("at", models.DateTimeField()),
                ("last_id", models.UUIDField()),
                ("rows", models.PositiveBigIntegerField()),
                ("digest", models.BinaryField()),
            ],
            options={
                "ordering": ["n"],
            },
        ),
    ]

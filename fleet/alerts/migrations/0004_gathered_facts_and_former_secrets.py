from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("alerts", "0003_list_orders"),
    ]

    operations = [
        migrations.CreateModel(
            name="GatheredFact",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("event", models.CharField(max_length=32)),
                ("kind", models.CharField(max_length=32)),
                ("object_id", models.CharField(max_length=128)),
                ("at", models.DateTimeField()),
                ("key", models.CharField(max_length=32)),
                ("item", models.JSONField()),
                ("about", models.JSONField()),
                ("page", models.CharField(blank=True, default="", max_length=256)),
                ("api", models.CharField(blank=True, default="", max_length=256)),
            ],
            options={
                "ordering": ["id"],
            },
        ),
        migrations.AddIndex(
            model_name="delivery",
            index=models.Index(
                condition=models.Q(("state", "failed")), fields=["finished_at"], name="delivery_failed"
            ),
        ),
        migrations.AddField(
            model_name="webhook",
            name="former_until",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="webhook",
            name="sealed_former",
            field=models.BinaryField(null=True),
        ),
    ]

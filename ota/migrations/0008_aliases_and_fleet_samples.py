from django.db import migrations, models
import django.db.models.deletion


class Migration(migrations.Migration):

    dependencies = [
        ('ota', '0007_order_of_delivery'),
    ]

    operations = [
        migrations.CreateModel(
            name='ModelAlias',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=32)),
                ('rev', models.PositiveIntegerField(default=1)),
                ('changed_at', models.DateTimeField()),
                ('changed_by', models.CharField(max_length=128)),
                ('model', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='aliases', to='ota.mlmodel')),
                ('version', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='aliases', to='ota.modelversion')),
            ],
            options={
                'ordering': ['name'],
                'constraints': [models.UniqueConstraint(fields=('model', 'name'), name='one_alias_per_name')],
            },
        ),
        migrations.CreateModel(
            name='FleetSample',
            fields=[
                ('at', models.DateTimeField(primary_key=True, serialize=False)),
                ('devices', models.PositiveIntegerField()),
                ('online', models.PositiveIntegerField()),
                ('newest', models.CharField(blank=True, default='', max_length=32)),
                ('on_newest', models.PositiveIntegerField(default=0)),
            ],
            options={
                'ordering': ['at'],
            },
        ),
    ]

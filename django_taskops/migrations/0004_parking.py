from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("taskops", "0003_workers"),
    ]

    operations = [
        migrations.AddField(
            model_name="deadletter",
            name="let_through_at",
            field=models.DateTimeField(blank=True, null=True, verbose_name="let through at"),
        ),
        migrations.AlterField(
            model_name="outboxentry",
            name="kind",
            field=models.CharField(max_length=32),
        ),
    ]

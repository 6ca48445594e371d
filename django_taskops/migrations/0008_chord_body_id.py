from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("taskops", "0007_chords"),
    ]

    operations = [
        migrations.AddField(
            model_name="chord",
            name="body_id",
            field=models.CharField(blank=True, default="", max_length=255),
        ),
    ]

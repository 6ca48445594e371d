from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("taskops", "0008_chord_body_id"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="deadletter",
            index=models.Index(
                condition=models.Q(("requeued_as", ""), _negated=True),
                fields=["requeued_as"],
                name="taskops_letter_requeued",
            ),
        ),
        migrations.AddIndex(
            model_name="taskrun",
            index=models.Index(
                condition=models.Q(("requeued_from", ""), _negated=True),
                fields=["requeued_from"],
                name="taskops_run_requeued",
            ),
        ),
    ]

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("taskops", "0003_workers")]

    operations = [
        migrations.AlterField(
            model_name="outboxentry",
            name="kind",
            field=models.CharField(
                choices=[
                    ("task_dead_lettered", "Dead Lettered"),
                    ("dead_letter_queue", "Dead Letter Queue"),
                    ("dead_letter_resolved", "Resolved"),
                    ("recorder_blind", "Blind"),
                    ("requeue", "Requeue"),
                    ("claim", "Claim"),
                    ("rerun", "Rerun"),
                    ("alert", "Alert"),
                    ("lease", "Lease"),
                    ("draft", "Draft"),
                    ("decide_many", "Many"),
                ],
                max_length=32,
            ),
        ),
    ]

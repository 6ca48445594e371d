"""A plugin for the pytest that runs Celery's scenarios: this app is installed, and its tables are there."""

import os
from pathlib import Path

import django
from django.core.management import call_command

os.environ["DJANGO_SETTINGS_MODULE"] = "canvas_check.settings"
django.setup()


def pytest_configure() -> None:
    call_command("migrate", verbosity=0)


def pytest_unconfigure() -> None:
    """Writes down how many runs the app has recorded."""
    from django_taskops.models import TaskRun

    call_command("taskops_drain", "--once", verbosity=0)
    (Path(os.environ["CANVAS_CHECK_FOLDER"]) / "recorded").write_text(str(TaskRun.objects.count()))

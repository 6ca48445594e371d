"""A project of which Celery's scenarios know nothing."""

import os

SECRET_KEY = "for these scenarios only"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django_taskops"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(os.environ.get("CANVAS_CHECK_FOLDER", "."), "runs.sqlite3"),  # noqa: PTH118
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
    }
}
CELERY_BROKER_URL = os.environ.get("TEST_BROKER", "redis://")
TASKOPS = {"JOURNAL": CELERY_BROKER_URL}

"""The project that is measured, in the variant that the environment names. `project.Project` writes that environment.

Variants differ in what records the tasks, and in nothing else: broker, databases and Django's own apps are the same.
"""

import json
import os
from typing import Any

from example_site.embedded import postgres_settings

_variant = os.environ.get("BENCH_VARIANT", "bare")
_postgres_url = os.environ.get("BENCH_POSTGRES_URL", "")
_folder = os.environ.get("BENCH_FOLDER", "")

_RECORDERS = {
    "bare": [],
    "results": ["django_celery_results"],
    "results-extended": ["django_celery_results"],
    "taskops": ["django_taskops"],
}


def _sqlite(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(_folder, name) if _folder else ":memory:",  # noqa: PTH118
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
    }


SECRET_KEY = "for the benchmark only"
DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", *_RECORDERS[_variant]]

DATABASES = {
    "default": postgres_settings(_postgres_url) if _postgres_url else _sqlite("project.sqlite3"),
    "taskops": _sqlite("taskops.sqlite3"),
}

CELERY_BROKER_URL = os.environ.get("BENCH_BROKER_URL", "memory://")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_DEFAULT_QUEUE = "bench"
CELERY_TASK_IGNORE_RESULT = "django_celery_results" not in INSTALLED_APPS
if not CELERY_TASK_IGNORE_RESULT:
    CELERY_RESULT_BACKEND = "django-db"
    CELERY_RESULT_EXTENDED = CELERY_TASK_TRACK_STARTED = _variant == "results-extended"

TASKOPS: dict[str, Any] = json.loads(os.environ.get("BENCH_TASKOPS", "{}"))

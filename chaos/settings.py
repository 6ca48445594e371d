"""The project that is under fire. The environment says where its servers are."""

import json
import os
from typing import Any

from example_site.embedded import postgres_settings, redis_database

_redis_url = os.environ.get("CHAOS_REDIS_URL", "redis://127.0.0.1:6379/0")
_folder = os.environ.get("CHAOS_FOLDER", ".")

SECRET_KEY = "for chaos only"
DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django_taskops"]
DATABASES = {"default": postgres_settings(os.environ.get("CHAOS_DATABASE_URL", "postgresql:///chaos"))}

VISIBILITY_SECONDS = 10

CELERY_BROKER_URL = redis_database(_redis_url, 1)
CELERY_RESULT_BACKEND = redis_database(_redis_url, 2)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
# What a killed worker held comes again within seconds, not after an hour.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": VISIBILITY_SECONDS,
    "unacked_restore_interval": 2,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 5,
}
CELERY_RESULT_EXPIRES = 3600
CELERY_TASK_DEFAULT_QUEUE = "chaos"
CELERY_WORKER_PREFETCH_MULTIPLIER = 2

TASKOPS: dict[str, Any] = {
    "WORKER_TIMEOUT": 6,
    "UNDELIVERED_AFTER": 10,
    "SPOOL_DIR": os.path.join(_folder, "spool"),  # noqa: PTH118
    **json.loads(os.environ.get("CHAOS_TASKOPS", "{}")),
}

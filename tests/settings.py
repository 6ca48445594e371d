"""The project the tests run in, also in worker processes: they get the addresses of the test databases.

Without a PostgreSQL or a MariaDB their place is taken by SQLite, and what needs the real one is skipped.
"""

import json
import os
import warnings
from importlib.util import find_spec
from typing import Any

import django
from django.utils.deprecation import RemovedAfterNextVersionWarning, RemovedInNextVersionWarning

from example_site.embedded import is_postgres, postgres_settings, redis_database
from example_site.embedded_mariadb import mysql_settings

if find_spec("MySQLdb") is None and find_spec("pymysql"):  # the driver in C is used where it is installed
    import pymysql

    pymysql.install_as_MySQLdb()

warnings.filterwarnings("error", module="django_taskops|example_site")
for _soon in (RemovedInNextVersionWarning, RemovedAfterNextVersionWarning):
    warnings.filterwarnings("error", category=_soon)

_database_url = os.environ.get("DATABASE_URL", "")
_mysql_url = os.environ.get("MYSQL_URL", "")
_redis_url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
_sqlite_file = os.environ.get("TASKOPS_TEST_SQLITE", ":memory:")


def _sqlite(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": name,
        # A file also for the tests, so that worker processes can open it.
        "TEST": {"NAME": name if name == ":memory:" else f"{name}.test"},
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
    }


SECRET_KEY = "for the tests only"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
ROOT_URLCONF = "tests.urls"
STATIC_URL = "/static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

DATABASES = {
    "default": postgres_settings(_database_url) if is_postgres(_database_url) else _sqlite(":memory:"),
    "sqlite": _sqlite(_sqlite_file),
    "mariadb": mysql_settings(_mysql_url) if _mysql_url else _sqlite(":memory:"),
}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_results",
    "django_taskops",
    "example_site.shop",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}

CELERY_BROKER_URL = redis_database(_redis_url, 1)
CELERY_RESULT_BACKEND = os.environ.get("TASKOPS_TEST_RESULTS") or redis_database(_redis_url, 2)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_ROUTES = ("tests.celery_app.route",)
CELERY_RESULT_EXPIRES = 600
_of_one_worker: dict[str, Any] = json.loads(os.environ.get("TASKOPS_TEST_CELERY", "{}"))
globals().update({f"CELERY_{name.upper()}": value for name, value in _of_one_worker.items()})

_spool = {"SPOOL_DIR": os.environ["TASKOPS_TEST_SPOOL"]} if "TASKOPS_TEST_SPOOL" in os.environ else {}
TASKOPS: dict[str, Any] = {"DATABASE": "default", **_spool} | json.loads(os.environ.get("TASKOPS_TEST_SETTINGS", "{}"))

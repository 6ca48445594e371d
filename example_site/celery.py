"""The shop's Celery app, as in any Django project, and the demo's own record of it."""

import os

from celery import Celery

from example_site import ledger

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_site.settings")

app = Celery("example_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

ledger.connect()

"""The project of tests/beside/hooked.py: its class-based tasks, registered by hand."""

from tests.beside.hooked import Behave, BehaveByPolicy, BehaveLate
from tests.celery_app import app

for task in (Behave, BehaveLate, BehaveByPolicy):
    app.register_task(task())

__all__ = ["app"]

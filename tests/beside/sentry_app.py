"""A project with Sentry. BESIDE_INIT says when it is initialised, BESIDE_FILE where its events go, a line of JSON each.

import       when this module is imported: before Django's setup, and so before this package's `ready()`
worker_init  after this package has prepared the worker's tasks
"""

import json
import os
from pathlib import Path
from typing import Any

import sentry_sdk
from celery import signals
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport


class FileTransport(Transport):
    """Written before `capture` returns, so that nothing is lost with a process that is killed afterwards."""

    def capture_envelope(self, envelope: Envelope) -> None:
        event: Any = envelope.get_event()
        if event is not None:
            with Path(os.environ["BESIDE_FILE"]).open("a") as file:
                file.write(json.dumps(event, default=str) + "\n")


def init(**_signal: object) -> None:
    sentry_sdk.init(
        dsn="http://key@sentry.invalid/1",
        transport=FileTransport,
        integrations=[CeleryIntegration()],
        traces_sample_rate=1.0,
    )


if os.environ["BESIDE_INIT"] == "import":
    init()

from tests.celery_app import app  # noqa: E402

app.autodiscover_tasks(["tests.beside"])


@signals.celeryd_init.connect(weak=False)
def init_last(**_signal: object) -> None:
    """Connected when this package's own receivers are, so that it is called after them."""
    if os.environ["BESIDE_INIT"] == "worker_init":
        signals.worker_init.connect(init, weak=False)


__all__ = ["app"]

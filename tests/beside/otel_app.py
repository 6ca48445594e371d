"""A project with OpenTelemetry. BESIDE_INIT says when Celery is instrumented, BESIDE_FILE where the spans of all its
processes go, one line of JSON each.

import               when this module is imported: before Django's setup, and so before this package's `ready()`
worker_process_init  in each child, as OpenTelemetry's guide does it, and after this package
"""

import os
from pathlib import Path
from typing import Any

from celery import signals
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor


def instrument(**_signal: object) -> None:
    exporter = ConsoleSpanExporter(
        out=Path(os.environ["BESIDE_FILE"]).open("a"),  # noqa: SIM115 as long as the process
        formatter=lambda span: span.to_json(indent=None) + "\n",
    )
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor: Any = CeleryInstrumentor()  # type: ignore[no-untyped-call]
    instrumentor.instrument(tracer_provider=provider)


if os.environ["BESIDE_INIT"] == "import":
    instrument()
else:
    signals.worker_process_init.connect(instrument, weak=False)

from tests.celery_app import app  # noqa: E402

app.autodiscover_tasks(["tests.beside"])

__all__ = ["app"]

"""OpenTelemetry's Celery instrumentation beside this app: one trace from the publish on, whichever comes first."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import signals
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from django_taskops.capture import receivers
from django_taskops.models import TaskRun
from django_taskops.recovery import requeue
from tests import tasks
from tests.beside import tasks as beside
from tests.integration.test_lifecycle import ended
from tests.workers import WorkerStarter, eventually, new_queue

ORDERS = {"before": "import", "after": "worker_process_init"}
"""When OpenTelemetry comes, and what that is in a worker."""

CASES: dict[str, tuple[Callable[[], Any], str, int, int]] = {
    "success": (lambda: tasks.add.delay(1, 2), "SUCCESS", 1, 0),
    "failure": (tasks.fail.delay, "FAILURE", 1, 1),
    "failure through a __call__": (beside.fail_despite_its_fallback.delay, "FAILURE", 1, 1),
    "retries, then success": (lambda: tasks.flaky.delay(uuid4().hex, 2), "SUCCESS", 3, 0),
    "retries used up": (lambda: tasks.flaky.delay(uuid4().hex, 9), "FAILURE", 4, 1),
    "soft limit": (tasks.soft_limit.delay, "FAILURE", 1, 1),
    "ignored": (tasks.ignore.delay, "IGNORED", 1, 0),
    "publishes another": (beside.publish_another.delay, "SUCCESS", 1, 0),
}
"""How it is called, how its run ends, after how many starts, and how many errors its spans tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A publish or a run, as either exporter writes it."""

    task_id: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    errors: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Span":
        return cls(
            task_id=told["attributes"]["messaging.message.id"],
            kind=told["attributes"]["celery.action"],
            trace_id=told["context"]["trace_id"].removeprefix("0x"),
            span_id=told["context"]["span_id"],
            parent_id=told["parent_id"] or "",
            errors=len([event for event in told["events"] if event["name"] == "exception"]),
        )


@dataclass(frozen=True, slots=True)
class Spans:
    """Those of this process, which publishes, and those of the worker."""

    published: InMemorySpanExporter
    worked: Path

    def of(self, task_id: str, kind: str) -> list[Span]:
        lines = [span.to_json() for span in self.published.get_finished_spans()]
        lines += self.worked.read_text().splitlines()
        spans = [Span.of(json.loads(line)) for line in lines]
        return [span for span in spans if (span.task_id, span.kind) == (task_id, kind)]

    def publishes(self, task_id: str) -> list[Span]:
        return self.of(task_id, "apply_async")

    def runs(self, task_id: str) -> list[Span]:
        return self.of(task_id, "run")


@contextmanager
def instrumented(order: str) -> Iterator[InMemorySpanExporter]:
    """This process, with OpenTelemetry before or after this app."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor: Any = CeleryInstrumentor()  # type: ignore[no-untyped-call]
    instrumentor.instrument(tracer_provider=provider)
    if order == "before":
        _connect_ours_last()
    try:
        yield exporter
    finally:
        instrumentor.uninstrument()


def _connect_ours_last() -> None:
    for name in receivers._RECEIVERS:
        getattr(signals, name).disconnect(dispatch_uid=f"taskops.{name}")
    receivers.connect()


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_each_start_has_one_span_under_that_of_its_publish(
    start_worker: WorkerStarter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for order, init in ORDERS.items():
        (tmp_path / order).touch()
        start_worker(
            app="tests.beside.otel_app",
            queue=new_queue(),
            extra_env={"BESIDE_INIT": init, "BESIDE_FILE": str(tmp_path / order)},
        )
    published, spans = {}, {}
    for order, worker in zip(ORDERS, start_worker.started, strict=True):
        monkeypatch.setenv("TASKOPS_TEST_QUEUE", worker.queue.name)
        with instrumented(order) as exporter:
            published[order] = {name: case[0]() for name, case in CASES.items()}
        spans[order] = Spans(exporter, tmp_path / order)

    for order in ORDERS:
        runs = {name: ended(result) for name, result in published[order].items()}
        assert_traced(runs, spans[order])
        assert_rerun_stays_in_the_trace(runs["failure"], spans[order])


def assert_traced(runs: Mapping[str, TaskRun], spans: Spans) -> None:
    for name, (_, state, starts, errors) in CASES.items():
        seen = eventually(partial(told, runs[name], spans, starts), message=f"the spans of {name}")
        assert seen == (state, starts, errors, {runs[name].trace_id}), name

    publisher = runs["publishes another"]
    child = ended(str(publisher.result))
    assert eventually(partial(told, child, spans, 1)) == ("SUCCESS", 1, 0, {publisher.trace_id})
    assert spans.publishes(child.task_id)[0].parent_id == spans.runs(publisher.task_id)[0].span_id


def assert_rerun_stays_in_the_trace(run: TaskRun, spans: Spans) -> None:
    requeue(run.dead_letters.get())

    second = eventually(lambda: spans.runs(run.task_id)[1:], message="the span of the re-run")
    again = eventually(lambda: TaskRun.objects.get(pk=run.pk, generation=1, state="FAILURE"))
    assert [span.trace_id for span in second] == [run.trace_id] == [again.trace_id]


def told(run: TaskRun, spans: Spans, starts: int) -> tuple[str, int, int, set[str]] | None:
    """State, starts, errors and traces of a run, by its spans; None while they are not all there."""
    publishes, started = spans.publishes(run.task_id), spans.runs(run.task_id)
    if len(started) < starts:
        return None
    assert sorted(span.parent_id for span in started) == sorted(span.span_id for span in publishes)
    traces = {span.trace_id for span in [*publishes, *started]}
    return run.state, len(started), sum(span.errors for span in started), traces

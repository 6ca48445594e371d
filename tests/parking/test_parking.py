"""Real workers: a failure that is parked leaves everything open, a requeue completes it, a discard lets it through."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from celery import chain, chord, current_app
from celery.exceptions import ChordError
from django.db import connections
from pytest_django import DjangoDbBlocker, Settings

from django_taskops.models import DeadLetter, OutboxEntry, OutboxKind, OutboxStatus, TaskRun
from django_taskops.recovery import discard, requeue, restore
from django_taskops.states import DeadLetterReason, LetterStatus
from tests.conftest import _forget_last_words, _publish_to
from tests.lifecycle.cases import key
from tests.parking import tasks as parked
from tests.tasks import add, calls, counters, heal
from tests.workers import Worker, WorkerStarter, eventually, hang_up, new_queue

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("database", ["default"], indirect=True),
]


@pytest.fixture(scope="module", params=["redis", "django-db"])
def backend_and_worker(
    request: pytest.FixtureRequest,
    redis_url: str,
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Worker]]:
    """One after the other: of two workers on one database either may carry out what the outbox holds."""
    name = request.param
    starter = WorkerStarter(folder=tmp_path_factory.mktemp("workers"))
    queue = new_queue()
    results = {} if name == "redis" else {"TASKOPS_TEST_RESULTS": name}
    prefix = {"JOURNAL_PREFIX": queue.name}
    yield name, starter(database="default", queue=queue, concurrency=4, taskops=prefix, extra_env=results)
    starter.stop_all()
    queue.remove()
    _forget_last_words({"default"}, django_db_blocker)


@pytest.fixture
def backend(
    backend_and_worker: tuple[str, Worker], database: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The result backend of this process and of the worker that does what it publishes."""
    name, worker = backend_and_worker
    _publish_to(worker.queue, settings, monkeypatch)
    with _results_in(name):
        yield name
    worker.settle()


@contextmanager
def _results_in(backend: str) -> Iterator[None]:
    """In all threads of this process. The app keeps the backend that it has found first."""
    app: Any = current_app
    hang_up(app)
    app.backend_cls = None if backend == "redis" else backend
    app._local, app._backend_cache = threading.local(), None
    yield
    hang_up(app)
    app.backend_cls = None
    app._local, app._backend_cache = threading.local(), None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    task: Any
    how: str
    reason: DeadLetterReason
    starts: int = 1
    everywhere: bool = False  # on each backend, and in each shape; else in the header of a chord alone
    options: Mapping[str, Any] = field(default_factory=dict)

    def signature(self, name: str) -> Any:
        return self.task.si(name, self.how).set(**self.options)

    def __str__(self) -> str:
        return f"{self.how}, {self.task.name.rpartition('.')[2]}"


SOFT = {"soft_time_limit": 1}
HARD = {"time_limit": 1}
CASES = (
    Case(task=parked.early, how="exception", reason=DeadLetterReason.NON_RETRYABLE, everywhere=True),
    Case(task=parked.late, how="exception", reason=DeadLetterReason.NON_RETRYABLE),
    Case(task=parked.early, how="retries", reason=DeadLetterReason.EXHAUSTED, starts=2, everywhere=True),
    Case(task=parked.by_hand, how="retries", reason=DeadLetterReason.EXHAUSTED, starts=2),
    Case(task=parked.within, how="retries", reason=DeadLetterReason.EXHAUSTED),
    Case(task=parked.early, how="rejected", reason=DeadLetterReason.REJECTED),
    Case(task=parked.early, how="unserializable", reason=DeadLetterReason.UNSERIALIZABLE_RESULT),
    Case(task=parked.early, how="soft limit", reason=DeadLetterReason.SOFT_TIME_LIMIT, options=SOFT, everywhere=True),
    Case(task=parked.early, how="hard limit", reason=DeadLetterReason.TIME_LIMIT, options=HARD, everywhere=True),
    Case(task=parked.late, how="hard limit", reason=DeadLetterReason.TIME_LIMIT, options=HARD),
    Case(task=parked.early, how="killed", reason=DeadLetterReason.WORKER_LOST, everywhere=True),
    Case(task=parked.late, how="killed", reason=DeadLetterReason.WORKER_LOST),
    Case(task=parked.early, how="exit", reason=DeadLetterReason.WORKER_LOST),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A task that dies: alone, in the middle of a chain, or in the header of a chord."""

    case: Case
    name: str
    dies: Any  # its result
    last: Any  # the result that somebody waits for
    expected: object

    def come_to(self) -> object:
        """What the backend says now, for equality; "" where it says nothing."""
        kept = current_app.AsyncResult(self.last.id)
        return kept.result if kept.state == "SUCCESS" else ""


def _alone(case: Case, name: str) -> tuple[Any, Any, object]:
    """The result that dies, the one that is waited for, and what that comes to."""
    result = case.signature(name).delay()
    return result, result, f"{name} healed"


def _in_a_chain(case: Case, name: str) -> tuple[Any, Any, object]:
    last: Any = chain(add.si(1, 2), case.signature(name), parked.follow.s(name)).delay()
    return last.parent, last, [f"{name} healed", 1]


def _in_a_chord(case: Case, name: str) -> tuple[Any, Any, object]:
    body: Any = chord([add.si(1, 2), case.signature(name), add.si(3, 4)])(parked.follow.s(name))
    return body.parent.results[1], body, [[3, f"{name} healed", 7], 1]


def _published(case: Case, shapes: Sequence[Any]) -> Iterator[Waiting]:
    for shape in shapes if case.everywhere else [_in_a_chord]:
        name = key()
        dies, last, expected = shape(case, name)
        yield Waiting(case=case, name=name, dies=dies, last=last, expected=expected)


def test_a_requeue_completes_what_waited_for_it(backend: str) -> None:
    """On Redis in all cases and shapes; another backend differs in its chords alone."""
    cases = CASES if backend == "redis" else [case for case in CASES if case.everywhere]
    shapes = [_alone, _in_a_chain, _in_a_chord] if backend == "redis" else [_in_a_chord]
    waiting = [each for case in cases for each in _published(case, shapes)]
    letters = [eventually(partial(_parked_letter, each), timeout=90) for each in waiting]
    assert not TaskRun.objects.filter(reason="upstream_failed").exists()
    assert {each.last.state for each in waiting} <= {"PENDING", "STARTED", "RETRY"}
    for each, letter in zip(waiting, letters, strict=True):
        heal(each.name)
        requeue(letter)
    expected = {(str(each.case), each.name): each.expected for each in waiting}
    assert _collected(waiting, expected) == expected
    assert {calls(each.name) - each.case.starts for each in waiting} == {1}
    for letter in letters:
        eventually(lambda pk=letter.pk: DeadLetter.objects.get(pk=pk).status == LetterStatus.RESOLVED)  # type: ignore[misc]


def _collected(waiting: Sequence[Waiting], expected: Mapping[Any, object]) -> Mapping[Any, object]:
    deadline = time.monotonic() + 60
    while True:
        found = {(str(each.case), each.name): each.come_to() for each in waiting}
        if found == expected or time.monotonic() > deadline:
            return found


def test_a_caller_that_has_waited_since_before_gets_the_result(backend: str) -> None:
    name = key()
    result = parked.early.delay(name, "exception")
    with ThreadPoolExecutor(1) as caller:
        got = caller.submit(_got, result)
        letter = eventually(lambda: DeadLetter.objects.get(task_id=result.id))
        heal(name)
        requeue(letter)
        assert got.result() == f"{name} healed"


def _got(result: Any) -> Any:
    try:
        return result.get(timeout=30, interval=0.1)
    finally:
        connections.close_all()


def _parked_letter(waiting: Waiting) -> DeadLetter:
    letter: DeadLetter = DeadLetter.objects.get(task_id=waiting.dies.id)
    run = letter.run
    assert (str(waiting.case), run.reason, letter.parked) == (str(waiting.case), waiting.case.reason, True)
    return letter


def test_a_discard_lets_the_failure_through_once(backend: str) -> None:
    name = key()
    errbacks = [parked.note.s(), parked.note_at_once.s(key=name)]
    plain = parked.early.apply_async((key(), "exception"), link_error=errbacks)
    step = parked.early.si(key(), "exception").on_error(parked.note.s())
    last: Any = chain(add.si(1, 2), step, parked.follow.s(name)).delay()
    header = [add.si(1, 2), parked.early.si(key(), "exception"), parked.early.si(key(), "killed")]
    result: Any = chord(header)(parked.follow.s(name).on_error(parked.note.s()))
    dying = [plain, last.parent, *result.parent.results[1:]]
    letters = [eventually(lambda i=each.id: DeadLetter.objects.get(task_id=i), timeout=30) for each in dying]  # type: ignore[misc]
    assert [letter.parked for letter in letters] == [True] * 4

    for letter in letters:
        discard(letter, by="li", reason="the order was cancelled")
    for failed in (plain, last.parent, last, result.parent.results[1]):
        with pytest.raises(parked.OutOfStock, match=r"^no stock$"):
            failed.get(timeout=15, interval=0.1)
    with pytest.raises(ChordError, match=r"no stock|exited prematurely"):
        current_app.AsyncResult(result.id).get(timeout=15, interval=0.1)  # by itself, else its header raises first
    eventually(lambda: [calls(f"noted:{each.id}") for each in (plain, last.parent, result)] == [1, 1, 1])
    assert counters().lrange(f"noted at once:{name}", 0, -1) == [f"{plain.id} OutOfStock no stock".encode()]
    for waiting in (last, result):
        eventually(lambda i=waiting.id: TaskRun.objects.get(task_id=i, reason="upstream_failed"))  # type: ignore[misc]
    for letter in letters:
        letter.refresh_from_db()
        assert (letter.status, letter.parked, letter.run.state) == (LetterStatus.DISCARDED, False, "FAILURE")
        assert letter.let_through_at is not None


def test_a_requeue_that_dies_again_is_parked_again(backend: str) -> None:
    name = key()
    last: Any = chain(parked.early.si(name, "exception"), parked.follow.s(name)).delay()
    letter = eventually(lambda: DeadLetter.objects.get(task_id=last.parent.id))
    requeue(letter)
    again = eventually(lambda: DeadLetter.objects.get(task_id=last.parent.id, generation=1))
    assert (again.parked, last.state) == (True, "PENDING")

    heal(name)
    requeue(again)
    assert last.get(timeout=15, interval=0.1) == [f"{name} healed", 1]


def test_what_was_let_through_is_no_longer_parked_when_it_is_restored(backend: str) -> None:
    name = key()
    result = parked.early.delay(name, "exception")
    letter = eventually(lambda: DeadLetter.objects.get(task_id=result.id))
    discard(letter)
    eventually(lambda: result.state == "FAILURE")
    eventually(lambda: OutboxEntry.objects.get(kind=OutboxKind.LET_THROUGH).status == OutboxStatus.DONE)
    restore(letter)
    letter.refresh_from_db()
    assert (letter.status, letter.parked) == (LetterStatus.OPEN, False)

    heal(name)
    requeue(letter)
    assert eventually(lambda: current_app.AsyncResult(result.id).state == "SUCCESS")


def test_what_is_ignored_is_not_parked(backend: str) -> None:
    result = parked.ignored.delay()
    eventually(lambda: TaskRun.objects.get(task_id=result.id, state="IGNORED"))
    assert not DeadLetter.objects.filter(task_id=result.id).exists()

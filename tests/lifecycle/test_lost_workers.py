"""Whole workers that die, without a word, and workers that only look like it."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from celery import current_app

from django_taskops import journal
from django_taskops.exceptions import NotRequeueable
from django_taskops.models import AuditEntry, DeadLetter, OutboxEntry, OutboxKind, TaskRun, WorkerBeat
from django_taskops.recovery import requeue
from django_taskops.states import LetterStatus
from tests import tasks
from tests.lifecycle import tasks as more
from tests.lifecycle.cases import found, key
from tests.workers import BrokerQueue, Worker, WorkerStarter, eventually

if TYPE_CHECKING:
    from celery.result import AsyncResult

pytestmark = pytest.mark.parametrize("database", ["default"], indirect=True)
on_rabbitmq = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)

QUICK = {"WORKER_TIMEOUT": 2}


def start(start_worker: WorkerStarter, **options: Any) -> Worker:
    return start_worker(taskops=QUICK, **options)


def begun(task: Any, name: str) -> "AsyncResult[Any]":
    """A task that waits for `name`, which a worker has started, and its row says so."""
    result: AsyncResult[Any] = task.delay(name)
    has_started(name, 1)
    becomes(result, "STARTED")
    return result


def becomes(result: "AsyncResult[Any]", state: str) -> None:
    eventually(lambda: run_of(result).state == state, timeout=25)


def has_started(name: str, times: int) -> None:
    eventually(lambda: tasks.calls(f"started:{name}") == times, timeout=25)


def run_of(result: "AsyncResult[Any]") -> TaskRun:
    run: TaskRun = TaskRun.objects.get(task_id=result.id)
    return run


def called(result: "AsyncResult[Any]", reason: str) -> DeadLetter:
    """The letter of a run that has been given up for `reason`."""
    eventually(lambda: run_of(result).reason == reason and run_of(result).ready, timeout=25)
    letter: DeadLetter = eventually(lambda: DeadLetter.objects.filter(task_id=result.id).order_by("-pk").first())
    assert letter.reason == reason
    return letter


def restore_unacknowledged(generation: int = 0) -> None:
    """What a worker does when Redis's visibility timeout is over, without waiting for it."""
    with current_app.connection_for_read() as connection:
        channel: Any = connection.channel()
        for tag, raw in channel.client.hgetall(channel.unacked_key).items():
            if json.loads(raw)[0]["headers"].get("taskops_generation", 0) == generation:
                channel.qos.restore_by_tag(tag.decode())


def test_a_worker_killed_in_the_middle(start_worker: WorkerStarter, queue: BrokerQueue) -> None:
    doomed = start(start_worker)
    early, late = key(), key()
    lost, again = begun(tasks.wait_for, early), begun(more.wait_late, late)
    prefetched = tasks.add.delay(1, 2)
    timed = tasks.add.apply_async((3, 4), countdown=60)
    becomes(timed, "RECEIVED")
    eventually(lambda: len(queue) == 0)
    doomed.kill()
    start(start_worker)

    letter = called(lost, "worker_lost")
    assert letter.status == LetterStatus.OPEN
    assert f"process {doomed.pid}" in letter.description
    assert "its last beat was at" in letter.description
    assert letter.envelope
    assert found(lost, "whole worker killed")
    for waiting in (again, timed):
        due = eventually(TaskRun.objects.filter(task_id=waiting.id, verdict="abandoned").first)
        assert (due.state, due.reason) == ("RETRY", "worker_lost")
        assert due.retry_at is not None
    assert run_of(prefetched).state == "PENDING"

    tasks.let_go(late)
    restore_unacknowledged()
    for result, answer, name in (
        (again, late, "whole worker killed, `acks_late`"),
        (prefetched, 3, "whole worker killed, message prefetched"),
    ):
        assert result.get(timeout=20) == answer
        eventually(partial(found, result, name))
    becomes(timed, "RECEIVED")
    assert run_of(timed).starts() == 0
    assert DeadLetter.objects.count() == 1
    assert {entry.task_id for entry in AuditEntry.objects.filter(action="reap")} == {lost.id, again.id, timed.id}


@on_rabbitmq
def test_a_worker_killed_in_the_middle_on_rabbitmq(start_worker: WorkerStarter, queue: BrokerQueue) -> None:
    """Which delivers again at once, so that only what was acknowledged is lost."""
    doomed = start(start_worker)
    early, late = key(), key()
    lost, again = begun(tasks.wait_for, early), begun(more.wait_late, late)
    prefetched = tasks.add.delay(1, 2)
    timed = tasks.add.apply_async((3, 4), countdown=5)
    becomes(timed, "RECEIVED")
    doomed.kill()
    tasks.let_go(late)
    start(start_worker)

    for result, answer in ((again, late), (prefetched, 3), (timed, 7)):
        assert result.get(timeout=20) == answer
        becomes(result, "SUCCESS")
    assert called(lost, "worker_lost").status == LetterStatus.OPEN
    assert DeadLetter.objects.count() == 1


def test_what_is_declared_idempotent_runs_again_by_itself(start_worker: WorkerStarter) -> None:
    doomed = start(start_worker)
    name = key()
    result = begun(more.wait_idempotent, name)
    doomed.kill()
    tasks.let_go(name)
    start(start_worker)

    assert result.get(timeout=25) == name
    becomes(result, "SUCCESS")
    run = run_of(result)
    assert (run.generation, run.starts()) == (1, 2)
    letter = DeadLetter.objects.get(task_id=result.id)
    eventually(lambda: DeadLetter.objects.get(pk=letter.pk).status == LetterStatus.RESOLVED)
    actions = AuditEntry.objects.filter(task_id=result.id).order_by("pk").values_list("action", "user_name")
    assert list(actions) == [("reap", ""), ("requeue", "")]
    assert tasks.calls(f"started:{name}") == 2


def test_it_is_not_put_back_beyond_its_budget(start_worker: WorkerStarter) -> None:
    doomed = start(start_worker)
    result = begun(more.wait_idempotent_once, key())
    doomed.kill()
    start(start_worker)

    assert called(result, "worker_lost").status == LetterStatus.OPEN
    assert not OutboxEntry.objects.filter(kind=OutboxKind.RERUN).exists()


def test_what_takes_its_worker_down_three_times_is_poison(start_worker: WorkerStarter) -> None:
    name = key()
    result = None
    for deaths in range(3):
        doomed = start(start_worker)
        result = result or more.wait_idempotent.delay(name)
        has_started(name, deaths + 1)
        becomes(result, "STARTED")
        doomed.kill()
    assert result is not None
    start(start_worker)

    letter = called(result, "poison")
    assert letter.status == LetterStatus.OPEN
    assert "it has taken 3 workers down within 72 hours" in letter.description
    assert tasks.calls(f"started:{name}") == 3
    assert OutboxEntry.objects.filter(kind=OutboxKind.RERUN).count() == 2


def test_a_late_task_that_takes_its_worker_down_three_times_does_not_run_again(
    start_worker: WorkerStarter, queue: BrokerQueue
) -> None:
    """Its message would come again and again."""
    result = None
    name = key()
    for deaths in range(3):
        doomed = start(start_worker)
        if result is not None:
            restore_unacknowledged()  # of the worker before; that of this one would run in it twice
        result = result or more.wait_late.delay(name)
        has_started(name, deaths + 1)
        becomes(result, "STARTED")
        doomed.kill()
    assert result is not None
    start(start_worker)
    called(result, "poison")
    restore_unacknowledged()
    eventually(lambda: run_of(result).attempts.filter(reason="duplicate").exists())

    assert tasks.calls(f"started:{name}") == 3
    assert found(result, "whole worker killed for the third time")
    assert DeadLetter.objects.get(task_id=result.id).status == LetterStatus.OPEN


def test_a_stopped_worker_that_goes_on_has_the_last_word(start_worker: WorkerStarter) -> None:
    frozen = start(start_worker)
    name = key()
    result = begun(tasks.wait_for, name)
    with _frozen(frozen):
        start(start_worker)
        letter = called(result, "worker_lost")
    tasks.let_go(name)

    assert result.get(timeout=20) == name
    becomes(result, "SUCCESS")
    eventually(lambda: DeadLetter.objects.get(pk=letter.pk).status == LetterStatus.RESOLVED)
    assert tasks.calls(f"started:{name}") == 1
    assert AuditEntry.objects.get(task_id=result.id).outcome == "worker_lost"


@contextmanager
def _frozen(worker: Worker) -> Iterator[None]:
    processes = [worker.process.pid, *(child.pid for child in worker.children())]
    _signal(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(processes, signal.SIGCONT)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def test_an_older_message_that_comes_again_does_not_run(start_worker: WorkerStarter) -> None:
    doomed = start(start_worker)
    name = key()
    result = begun(more.wait_late, name)
    doomed.kill()
    start(start_worker)
    eventually(lambda: run_of(result).verdict == "abandoned")
    letter = DeadLetter.objects.create(
        run=run_of(result),
        task_id=result.id,
        task_name=run_of(result).task_name,
        publication=run_of(result).publication,
        reason="worker_lost",
        died_at=run_of(result).started_at,
        envelope=run_of(result).stored_envelope.envelope,
    )

    with pytest.raises(NotRequeueable) as refusal:
        requeue(letter)
    assert refusal.value.code == "redelivery_pending"
    with _journal_of_the_settings():
        requeue(letter, force=True)
    has_started(name, 2)
    restore_unacknowledged()
    duplicate = eventually(lambda: run_of(result).attempts.filter(reason="duplicate").first())
    tasks.let_go(name)

    assert result.get(timeout=20) == name
    becomes(result, "SUCCESS")
    assert (duplicate.generation, duplicate.started_at, duplicate.state) == (0, None, "IGNORED")
    assert run_of(result).generation == 1
    assert tasks.calls(f"started:{name}") == 2


@contextmanager
def _journal_of_the_settings() -> Iterator[None]:
    usual = journal.use(None)
    try:
        yield
    finally:
        journal.flush()
        journal.use(usual)


def test_two_workers_of_one_name(start_worker: WorkerStarter) -> None:
    first, second = start(start_worker), start(start_worker)
    assert first.name == second.name
    names = [key() for _ in range(4)]
    results = [begun(tasks.wait_for, name) for name in names]
    first.kill()
    lost = [result for result in results if run_of(result).pid not in {child.pid for child in second.children()}]
    assert len(lost) == 2
    for result in lost:
        called(result, "worker_lost")
    for name in names:
        tasks.let_go(name)
    for result in results:
        if result not in lost:
            becomes(result, "SUCCESS")
    assert DeadLetter.objects.count() == 2


def test_a_rolling_restart_loses_nothing(start_worker: WorkerStarter) -> None:
    """The old worker finishes warm, and for longer than the timeout, while the new one of its name works already."""
    old = start(start_worker)
    name = key()
    result = begun(tasks.wait_for, name)
    old.ask_to_stop()
    old.wait_for_log("Warm shutdown")
    start(start_worker)
    assert tasks.add.delay(1, 1).get(timeout=20) == 2
    eventually(lambda: WorkerBeat.objects.count() == 2)
    seen = {beat.pid: beat.number for beat in WorkerBeat.objects.all()}
    eventually(lambda: all(beat.number > seen[beat.pid] + 10 for beat in WorkerBeat.objects.all()))
    assert run_of(result).state == "STARTED"
    tasks.let_go(name)
    old.process.wait(20)

    becomes(result, "SUCCESS")
    assert WorkerBeat.objects.get(pid=old.pid).stopped_at is not None
    assert not DeadLetter.objects.exists()
    assert not AuditEntry.objects.exists()


def test_an_end_that_nobody_has_told(start_worker: WorkerStarter) -> None:
    """Its worker lives, and does not run it any more."""
    start(start_worker)
    other = start(start_worker)
    tasks.add.delay(1, 1).get(timeout=20)
    beat = eventually(lambda: WorkerBeat.objects.filter(pid=other.pid).first())
    done = tasks.add.delay(2, 2)
    becomes(done, "SUCCESS")
    TaskRun.objects.filter(task_id=done.id).update(
        state="STARTED", verdict="started", finished_at=None, boot_id=beat.boot_id
    )

    letter = called(done, "end_lost")
    assert letter.status == LetterStatus.OPEN
    assert "lives and does not run it any more" in letter.description
    assert "Redis" not in letter.description
    assert found(done, "its worker lives and does not run it any more")


def test_what_is_put_back_and_waits_is_not_lost(start_worker: WorkerStarter) -> None:
    """Its worker lives and does not run it any more, and the broker has it."""
    start(start_worker, concurrency=1, celery={"worker_prefetch_multiplier": 1})
    blocked, second = key(), key()
    rejected = more.reject_late_once.delay(second)
    blocking = tasks.wait_for.delay(blocked)
    eventually(lambda: run_of(rejected).attempts.exists() or run_of(rejected).verdict == "abandoned")
    tasks.let_go(blocked)

    for result in (rejected, blocking):
        becomes(result, "SUCCESS")
    put_back = run_of(rejected).attempts.get()
    assert (put_back.state, put_back.verdict, put_back.reason) == ("RETRY", "abandoned", "")
    assert not DeadLetter.objects.exists()

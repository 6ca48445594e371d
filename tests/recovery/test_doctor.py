"""Why a task that was sent does not run."""

import json
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import current_app
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation
from pytest_django import Settings

from django_taskops.models import TaskRun, WorkerBeat
from django_taskops.recovery import queues
from django_taskops.recovery.doctor import examine, examine_run
from django_taskops.recovery.findings import WORDS, Finding, Level
from tests import tasks
from tests.factories import DeadLetterFactory, OutboxEntryFactory, TaskRunFactory
from tests.recovery.beats import alive, held, sent, silent
from tests.sources import FakeSource, UseSources, waiting
from tests.workers import BrokerQueue, WorkerStarter, eventually, publishing_to

DOCS = Path(__file__).parents[2] / "docs" / "doctor.md"
LONG_AGO = timedelta(minutes=20)
SECONDS = re.compile(r"\d+ s\b")


@pytest.fixture(autouse=True)
def quiet_journal(use_sources: UseSources, declared_queues: None) -> Iterator[None]:
    use_sources()
    queues.forget()
    with redis.Redis.from_url(settings.CELERY_BROKER_URL) as client:
        client.delete("celery")  # other tests may have sent something there
    yield
    queues.forget()


def codes(findings: Sequence[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def told(findings: Sequence[Finding], code: str) -> str:
    (finding,) = [each for each in findings if each.code == code]
    return finding.sentence


def afresh() -> list[Finding]:
    queues.forget()
    return examine()


def of_run(task_id: str) -> list[Finding]:
    queues.forget()
    return examine_run(TaskRun.objects.get(task_id=task_id))


# The whole system


def test_a_healthy_system_gives_one_good_finding(database: str, queue: BrokerQueue) -> None:
    alive(queues=[queue.name])
    (found,) = examine()

    assert (found.code, found.level, found.advice) == ("well", Level.GOOD, "")
    assert found.sentence == "All is well: the broker answers, 1 worker is alive, and what it does is recorded."


def test_no_worker_is_bad(database: str, queue: BrokerQueue) -> None:
    alive(stopped_at=timezone.now())

    assert [(each.code, each.level) for each in examine()] == [("no_worker", Level.BAD)]


def test_while_the_recorder_is_blind_nobody_says_which_workers_live(database: str, use_sources: UseSources) -> None:
    use_sources(FakeSource(holding=waiting(214)))
    silent()

    assert codes(examine()) == ["recorder_blind"]
    assert "214 events wait in the redis journal" in examine()[0].sentence


def test_a_worker_that_fell_silent_is_told_until_another_takes_its_name(database: str, queue: BrokerQueue) -> None:
    alive("w2@shop")
    silent("w1@shop", seconds=300)
    silent("w0@shop", seconds=100_000)
    assert "Worker w1@shop has been silent for 5\xa0minutes" in told(examine(), "worker_silent")

    alive("w1@shop")
    assert codes(afresh()) == ["well"]


def test_a_queue_that_nobody_reads_is_bad(database: str, queue: BrokerQueue) -> None:
    alive(queues=["celery"])
    sent(queue)
    sent(queue)

    assert codes(examine()) == ["queue_unread"]
    assert told(examine(), "queue_unread") == f"2 messages wait in the queue {queue.name}, which no live worker reads."
    assert f"-Q {queue.name}" in examine()[0].advice


def test_a_task_that_no_reader_of_its_queue_knows_is_bad(database: str, queue: BrokerQueue) -> None:
    alive(queues=[queue.name], tasks=["shop.tasks.mail"])
    alive("w2@shop", tasks=[tasks.add.name])
    sent(queue)

    assert told(examine(), "task_unregistered").startswith(
        f"No worker that reads the queue {queue.name} knows the task tests.tasks.add"
    )
    WorkerBeat.objects.filter(worker="w1@shop").update(tasks=[])
    assert codes(afresh()) == ["well"]


def test_dead_letters_of_unknown_tasks_are_told(database: str, queue: BrokerQueue) -> None:
    alive()
    DeadLetterFactory(reason="unknown_task", task_name="shop.tasks.old")
    DeadLetterFactory(reason="unknown_task", task_name="shop.tasks.new")
    DeadLetterFactory(reason="unknown_task", discarded=True)
    DeadLetterFactory()

    assert told(examine(), "unknown_tasks") == (
        "2 dead letters are of tasks that their workers did not know, the newest of shop.tasks.new."
    )


@pytest.mark.parametrize(("seconds", "code"), [(30, "clock_ahead"), (-300, "clock_behind")])
def test_a_clock_out_of_step_is_told(database: str, queue: BrokerQueue, seconds: int, code: str) -> None:
    alive(beat_at=timezone.now() + timedelta(seconds=seconds))

    assert codes(examine()) == [code]
    assert re.search(r"is (\d+ s|5\xa0minutes|4\xa0minutes) (ahead of|behind)", examine()[0].sentence)


@pytest.mark.parametrize(
    ("started", "reserved", "found"),
    [(2, 1, "pool_stuck"), (1, 1, "well"), (2, 0, "well")],
    ids=["stuck", "busy", "nobody waits"],
)
def test_a_pool_that_is_full_for_long_is_told(
    database: str, queue: BrokerQueue, started: int, reserved: int, found: str
) -> None:
    ids = ["t-1", "t-2"]
    beat = alive(running=[held(task_id) for task_id in ids], reserved=[held("t-3")] * reserved)
    for number, task_id in enumerate(ids):
        ago = LONG_AGO if number < started else timedelta(minutes=1)
        TaskRunFactory(task_id=task_id, started=True, boot_id=beat.boot_id, published=timezone.now() - ago)

    assert codes(examine()) == [found]


def test_eager_mode_is_told(database: str, queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    alive()
    monkeypatch.setitem(current_app.conf, "task_always_eager", True)

    assert codes(examine()) == ["eager"]


def test_a_broker_that_is_down_is_bad(database: str) -> None:
    alive()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with publishing_to(f"redis://:hunter2@127.0.0.1:{port}/0"):
        assert codes(examine()) == ["broker_unreachable"]
        assert "hunter2" not in examine()[0].sentence


def test_a_broker_that_can_not_be_asked_is_no_fault(database: str) -> None:
    alive()
    with publishing_to("memory://"):
        assert codes(examine()) == ["well", "broker_unasked"]


def test_lost_events_are_a_warning(database: str, queue: BrokerQueue) -> None:
    alive()
    OutboxEntryFactory(kind="recorder_blind", payload={"reason": "dropped"})

    assert [(each.code, each.level) for each in examine()] == [("recorder_dropped", Level.WARNING)]


@pytest.mark.django_db(transaction=True)
def test_without_its_tables_it_says_so(database: str, queue: BrokerQueue) -> None:
    renamed = [("taskops_workerbeat", "taskops_away"), ("taskops_recorder", "taskops_gone")]
    with connections[database].cursor() as cursor:
        for name, away in renamed:
            cursor.execute(f"ALTER TABLE {name} RENAME TO {away}")
    try:
        assert codes(examine()) == ["recorder_blind"]
    finally:
        with connections[database].cursor() as cursor:
            for name, away in renamed:
                cursor.execute(f"ALTER TABLE {away} RENAME TO {name}")


def test_it_writes_nothing_and_costs_the_same_for_any_number_of_workers(database: str, queue: BrokerQueue) -> None:
    def asked() -> list[str]:
        queues.forget()
        with CaptureQueriesContext(connections[database]) as captured:
            examine()
        return [query["sql"] for query in captured if "SAVEPOINT" not in query["sql"]]

    alive(queues=[queue.name])
    few = asked()
    for number in range(20):
        alive(f"w{number}@shop", queues=[f"{queue.name}-{number}"])
    TaskRunFactory.create_batch(20, queue=queue.name)
    many = asked()

    assert abs(len(many) - len(few)) <= 3  # the recorder's line is kept for two seconds
    assert all(statement.startswith("SELECT") for statement in (*few, *many))


# One run


def test_an_ended_run_says_how(database: str) -> None:
    assert told(examine_run(TaskRunFactory(succeeded=True)), "ended") == "It has ended: Succeeded."


def test_a_run_that_runs_says_where(database: str) -> None:
    beat = alive()

    assert told(examine_run(TaskRunFactory(started=True, boot_id=beat.boot_id)), "running") == "Worker w1@shop runs it."
    assert codes(examine_run(TaskRunFactory(started=True))) == ["running"]


def test_a_run_whose_worker_is_gone_says_so(database: str) -> None:
    gone = silent()
    for state in ("started", "received"):
        assert codes(examine_run(TaskRunFactory(boot_id=gone.boot_id, **{state: True})))[0] == "worker_gone"


def test_a_run_in_its_queue_says_how_many_wait_and_who_reads(database: str, queue: BrokerQueue) -> None:
    for number in range(5):
        alive(f"w{number}@shop", queues=[queue.name], tasks=[tasks.add.name])

    assert told(of_run(sent(queue).task_id), "in_queue") == (
        f"It waits in the queue {queue.name}, which holds 1 message and is read by w0@shop, w1@shop, w2@shop, …."
    )


def test_a_run_whose_readers_are_all_stuck_says_so(database: str, queue: BrokerQueue) -> None:
    beat = alive(queues=[queue.name], running=[held("t-1")], reserved=[held("t-2")], concurrency=1, tasks=[])
    TaskRunFactory(task_id="t-1", started=True, boot_id=beat.boot_id, published=timezone.now() - LONG_AGO)
    run = sent(queue)
    assert codes(of_run(run.task_id)) == ["in_queue", "pool_stuck"]

    alive("w2@shop", queues=[queue.name], tasks=[])
    assert codes(of_run(run.task_id)) == ["in_queue"]


@pytest.mark.parametrize("where", ["running", "reserved"])
def test_a_run_in_the_hands_of_a_worker_says_whose(database: str, queue: BrokerQueue, where: str) -> None:
    run = TaskRunFactory(queue=queue.name)
    hands: dict[str, Any] = {where: [held(run.task_id)]}
    alive(**hands)

    assert told(examine_run(run), "held").startswith("Worker w1@shop holds it")


def test_a_received_run_is_with_the_worker_that_received_it(database: str) -> None:
    beat = alive("w1@shop")

    assert codes(examine_run(TaskRunFactory(received=True, verdict="received", boot_id=beat.boot_id))) == ["held"]


def test_a_run_of_a_queue_that_nobody_reads_says_so(database: str, queue: BrokerQueue) -> None:
    run = sent(queue)
    assert codes(of_run(run.task_id)) == ["no_worker"]
    alive()
    assert codes(of_run(run.task_id)) == ["queue_unread"]


def test_a_run_that_no_reader_knows_says_so(database: str, queue: BrokerQueue) -> None:
    alive(queues=[queue.name])

    assert codes(of_run(sent(queue).task_id)) == ["task_unregistered"]


def test_a_run_that_is_neither_in_its_queue_nor_with_a_worker_says_so(database: str, queue: BrokerQueue) -> None:
    alive(queues=[queue.name])
    just_now = TaskRunFactory(queue=queue.name, published=timezone.now())
    run = TaskRunFactory(queue=queue.name)

    assert codes(examine_run(just_now)) == ["sent"]
    (found,) = examine_run(run)
    assert (found.code, found.level) == ("nowhere", Level.WARNING)
    assert re.search(r"delivers it again: \d+ in all queues", found.advice)


def test_a_worker_that_does_not_list_all_it_holds_may_hold_it(database: str, queue: BrokerQueue) -> None:
    alive(queues=[queue.name], held=5000)

    assert codes(examine_run(TaskRunFactory(queue=queue.name))) == ["sent"]


def test_a_run_that_is_not_due_says_when(database: str, queue: BrokerQueue, settings: Settings) -> None:
    settings.TIME_ZONE = "Asia/Shanghai"
    alive(queues=[queue.name])
    due = timezone.now().replace(microsecond=0) + timedelta(hours=1)
    run = TaskRunFactory(queue=queue.name, eta=due, published=timezone.now())

    assert codes(examine_run(run)) == ["not_due", "sent"]
    assert examine_run(run)[0].sentence == f"It may not start before {timezone.localtime(due):%Y-%m-%d %H:%M:%S} CST."


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"retried": True, "verdict": "retried"}, "retry_due"),
        ({"retried": True, "verdict": "abandoned"}, "redelivery_due"),
        ({"retried": True, "verdict": "abandoned", "ago": 3600}, "redelivery_overdue"),
        ({"expires": timezone.now() - timedelta(hours=1)}, "expired"),
    ],
)
def test_a_run_says_what_time_it_waits_for(
    database: str, queue: BrokerQueue, fields: dict[str, Any], code: str
) -> None:
    alive(queues=[queue.name])
    ago = timedelta(seconds=fields.pop("ago", 0))
    fields.setdefault("published", timezone.now() - ago)

    assert examine_run(TaskRunFactory(queue=queue.name, **fields))[0].code == code


def test_a_run_of_no_known_queue_says_so(database: str) -> None:
    alive()

    assert codes(examine_run(TaskRunFactory(queue=""))) == ["queue_unknown"]


def test_a_run_says_that_the_broker_is_down(database: str) -> None:
    alive(queues=["a"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with publishing_to(f"redis://127.0.0.1:{port}/0"):
        assert codes(examine_run(TaskRunFactory(queue="a"))) == ["broker_unreachable", "sent"]


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_a_queue_that_rabbitmq_lacks_is_told(database: str, queue: BrokerQueue) -> None:
    alive()

    assert codes(examine_run(TaskRunFactory(queue=queue.name))) == ["queue_absent"]


# With a real worker


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_the_doctor_of_a_real_worker(start_worker: WorkerStarter, queue: BrokerQueue) -> None:
    """Healthy; then a task for a queue that nobody reads; then one that the worker does not know."""
    start_worker(taskops={"WORKER_TIMEOUT": 4})
    eventually(lambda: codes(afresh()) == ["well"], message="a good finding")

    unread = tasks.add.apply_async((1, 2), queue=f"{queue.name}-unread")
    eventually(lambda: codes(of_run(unread.id)) == ["queue_unread"])
    assert told(afresh(), "queue_unread").startswith(f"1 message waits in the queue {queue.name}-unread")

    unknown = current_app.send_task("shop.tasks.nobody_knows")
    eventually(lambda: "unknown_tasks" in codes(afresh()))
    assert "shop.tasks.nobody_knows" in told(afresh(), "unknown_tasks")
    assert codes(of_run(unknown.id)) == ["ended"]


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_a_run_behind_busy_slots_is_held_by_their_worker(start_worker: WorkerStarter, queue: BrokerQueue) -> None:
    start_worker(concurrency=1, taskops={"WORKER_TIMEOUT": 4})
    busy, waits = queue.name, tasks.add.s(1, 2)
    tasks.wait_for.delay(busy)
    result = waits.delay()
    eventually(lambda: codes(of_run(result.id)) == ["held"])
    tasks.let_go(busy)
    eventually(lambda: codes(of_run(result.id)) == ["ended"])


# The command


def doctor(*options: str, code: int = 0) -> str:
    """What the command says; fails where it exits with another code."""
    out = StringIO()
    queues.forget()
    with pytest.raises(SystemExit) if code else nullcontext() as left:
        call_command("taskops_doctor", *options, stdout=out)
    assert left is None or left.value.code == code
    return out.getvalue()


def test_the_command_says_it_in_plain_english_everywhere(database: str, queue: BrokerQueue, settings: Settings) -> None:
    alive(queues=[queue.name])
    settings.LANGUAGE_CODE = "zh-hans"
    with translation.override("zh-hans"):
        assert doctor() == ("good: All is well: the broker answers, 1 worker is alive, and what it does is recorded.\n")


def test_the_command_exits_with_the_worst(database: str, queue: BrokerQueue) -> None:
    lines = doctor(code=2).splitlines()
    assert lines[0] == "bad: No worker is alive, as far as is known."
    assert lines[1].startswith("    Start one: ")
    alive(beat_at=timezone.now() + timedelta(hours=1))
    assert doctor(code=1).startswith("warning: The clock of worker w1@shop")


def test_the_command_of_one_run(database: str, queue: BrokerQueue) -> None:
    alive()
    found = json.loads(doctor(sent(queue).task_id, "--json", code=2))

    assert found["level"] == "bad"
    (finding,) = found["findings"]
    assert set(finding) == {"code", "level", "sentence", "advice"}
    assert finding["code"] == "queue_unread"


def test_an_unknown_task_id_is_a_clear_error(database: str) -> None:
    with pytest.raises(CommandError, match="No run has the task id 'nobody'") as refused:
        doctor("nobody")
    assert refused.value.returncode == 2


# Words


def test_every_code_stands_in_the_docs_with_its_level() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)

    assert dict(rows) == {code: str(words.level) for code, words in WORDS.items()}
    assert len(rows) == len(WORDS)


def test_every_finding_that_is_not_good_says_what_to_do() -> None:
    assert [code for code, words in WORDS.items() if words.level is not Level.GOOD and not words.advice] == []

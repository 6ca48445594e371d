"""`manage.py taskops_requeue`: what it means is pinned, shown, sent in batches and accounted for."""

import json
from datetime import timedelta
from functools import partial
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.utils import timezone

from django_taskops.capture import headers as own
from django_taskops.capture.text import storable_id
from django_taskops.models import AuditEntry, DeadLetter, OutboxEntry, OutboxKind
from django_taskops.recovery import discard, outbox
from django_taskops.states import LetterStatus
from tests import tasks
from tests.factories import DeadLetterFactory
from tests.recovery.beats import alive
from tests.recovery.test_requeue import letter_of
from tests.workers import BrokerQueue

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def letters(database: str, queue: BrokerQueue) -> list[DeadLetter]:
    return [letter_of(queue, partial(tasks.fail.delay, f"lamp {number}")) for number in range(3)]


def run(*arguments: str, **options: Any) -> tuple[int, str]:
    """The exit code and what it has said."""
    said = StringIO()
    try:
        call_command("taskops_requeue", *arguments, stdout=said, **options)
    except SystemExit as end:
        return int(end.code or 0), said.getvalue()
    return 0, said.getvalue()


def as_json(*arguments: str) -> tuple[int, Any]:
    status, said = run(*arguments, "--json")
    return status, json.loads(said)


def open_letters() -> int:
    count: int = DeadLetter.objects.filter(status=LetterStatus.OPEN).count()
    return count


def test_tasks_that_are_named_are_sent(letters: list[DeadLetter], queue: BrokerQueue) -> None:
    status, said = as_json(letters[2].task_id, letters[0].task_id, "--why", "the supplier is back", "--attempts", "2")

    assert (status, said["matching"], said["sent"], said["skipped"]) == (0, 2, 2, {})
    assert queue.task_ids() == [letters[2].task_id, letters[0].task_id]
    assert {message["headers"][own.ATTEMPTS] for message in queue.messages()} == {2}
    entry = AuditEntry.objects.latest("pk")
    assert (entry.user_name.endswith(" (taskops_requeue)"), entry.why) == (True, "the supplier is back")
    assert entry.details["attempts"] == 2


def test_filters_find_open_letters_only(letters: list[DeadLetter], queue: BrokerQueue) -> None:
    discard(letters[1])

    assert as_json("--task", tasks.fail.name)[1]["sent"] == 2
    assert queue.task_ids() == [letters[0].task_id, letters[2].task_id]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--task", "tests.tasks.*"], 3),
        (["--task", "tests.*.fail"], 3),
        (["--task", "tests.tasks.f"], 0),
        (["--task", "tests.tasks.fai."], 0),
        (["--reason", "failed"], 3),
        (["--reason", "time_limit"], 0),
        (["--since", "1h", "--task", "*"], 2),
        (["--since", "2000-01-01"], 3),
        (["--until", "1h"], 1),
        (["--until", "2000-01-01T00:00+00:00"], 0),
        (["--task", "*", "--limit", "2"], 2),
    ],
)
def test_each_filter_narrows(letters: list[DeadLetter], filters: list[str], found: int) -> None:
    DeadLetter.objects.update(died_at=timezone.now())
    DeadLetter.objects.filter(pk=letters[0].pk).update(died_at=timezone.now() - timedelta(hours=3))

    assert as_json(*filters, "--dry-run")[1]["matching"] == found


def test_a_dry_run_sends_nothing_and_says_what_it_would(letters: list[DeadLetter], queue: BrokerQueue) -> None:
    DeadLetter.objects.filter(pk=letters[0].pk).update(envelope=None, envelope_error="payload exceeds the limit of 1")
    status, said = run("--task", "*", "--dry-run")

    assert status == 3
    assert "3 matching, 2 can be run again." in said
    assert "1 will be skipped (payload_too_large): not re-runnable: payload exceeds the limit of 1" in said
    assert (len(queue), open_letters()) == (0, 3)


def test_one_that_can_not_be_read_never_stops_the_rest(letters: list[DeadLetter], queue: BrokerQueue) -> None:
    DeadLetter.objects.filter(pk=letters[0].pk).update(envelope=b"garbage")
    status, said = as_json("--task", "*")

    assert (status, said["sent"], said["skipped"]) == (3, 2, {"envelope_unreadable": 1})
    assert said["examples"]["envelope_unreadable"][0].startswith(f"{letters[0].pk}: not re-runnable")


def test_what_was_decided_on_before_and_what_nobody_knows_is_skipped(
    letters: list[DeadLetter], queue: BrokerQueue
) -> None:
    discard(letters[0])
    status, said = as_json(letters[0].task_id, "no-such-task")

    assert (status, said["sent"]) == (4, 0)
    assert said["skipped"] == {"already_taken": 1, "unknown": 1}


def test_what_is_a_matter_of_judgement_needs_force(letters: list[DeadLetter], queue: BrokerQueue) -> None:
    task = tasks.fail.name
    alive(tasks=["shop.tasks.price"])
    assert as_json("--task", task)[1]["skipped"] == {"unregistered": 3}
    assert as_json("--task", task, "--force", "--dry-run")[1]["rerunnable"] == 3
    assert as_json("--task", task, "--force")[1]["sent"] == 3


def test_nobody_is_asked_where_there_is_no_terminal(letters: list[DeadLetter], queue: BrokerQueue) -> None:
    with pytest.raises(CommandError, match="expected --yes"):
        run("--task", "*")
    assert open_letters() == 3
    assert run("--task", "*", "--yes") == (0, "3 of 3 sent.\n")


@pytest.mark.parametrize(("answer", "sent"), [("y", 3), ("n", 0), ("", 0)])
def test_a_person_is_asked(
    letters: list[DeadLetter], queue: BrokerQueue, monkeypatch: pytest.MonkeyPatch, answer: str, sent: int
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer if "Send 3 again?" in question else "?")
    if sent:
        assert run("--task", "*")[1].endswith("3 of 3 sent.\n")
    else:
        with pytest.raises(CommandError, match="Nothing was sent"):
            run("--task", "*")
    assert len(queue) == sent


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "expected task ids, or some of"),
        (["some-id", "--task", "*"], "got both"),
        (["--task", "*", "--limit", "0"], "--limit: expected a count above 0, got 0"),
        (["--task", "*", "--since", "soon"], "--since: expected an instant"),
        (["--task", "*", "--until", "2026-13-01"], "--until: expected an instant"),
        (["--task", "*", "--attempts", "twice"], "attempts: expected 'fresh', 'once' or a count from 1, got 'twice'"),
        (["--task", "*", "--attempts", "0"], "got 0"),
        (["--from-queue", "no-such-queue"], "queue 'no-such-queue' can't be read"),
        (["--from-queue", "dead", "--limit", "0"], "--limit: expected a count above 0, got 0"),
        (["--from-queue", "dead", "--task", "*"], "--from-queue: expected no task ids beside it"),
        (["--from-queue", "dead", "--until", "2d"], "--from-queue: expected no task ids beside it"),
        (["--from-queue", "dead", "some-id"], "--from-queue: expected no task ids beside it"),
        (["--task", "*", "--reason", "boredom"], "invalid choice: 'boredom'"),
    ],
)
def test_what_can_not_be_meant_is_said_precisely(
    database: str, queue: BrokerQueue, arguments: list[str], expected: str
) -> None:
    with pytest.raises(CommandError) as error:
        run(*arguments, "--yes")
    assert expected in str(error.value)


def test_many_are_sent_in_batches_with_a_few_statements_each(
    database: str, queue: BrokerQueue, django_assert_max_num_queries: Any
) -> None:
    DeadLetterFactory.create_batch(150, run__queue=queue.name)
    with django_assert_max_num_queries(70, connection=connections[database]):
        status, said = as_json("--task", "*")

    assert (status, said["sent"], open_letters()) == (0, 150, 0)


def test_an_id_that_the_tables_have_cut_is_found(letters: list[DeadLetter], queue: BrokerQueue) -> None:
    task_id = "order-" + "7" * 300
    DeadLetter.objects.filter(pk=letters[0].pk).update(task_id=storable_id(task_id))

    assert as_json(task_id)[1]["sent"] == 1


def test_a_dead_letter_queue_is_put_back(letters: list[DeadLetter], queue: BrokerQueue) -> None:
    dead = BrokerQueue(f"{queue.name}-dead")
    payload = {"run": letters[0].run_id, "publication": letters[0].publication, "generation": 0, "queue": dead.name}
    OutboxEntry.objects.create(kind=OutboxKind.DEAD_LETTER_QUEUE, key="k", payload=payload)
    outbox.carry_out()

    assert as_json("--from-queue", dead.name, "--dry-run") == (
        0,
        {"dry_run": True, "matching": 1, "rerunnable": 1, "skipped": {}, "examples": {}, "outlook": []},
    )
    assert len(dead) == 1
    assert as_json("--from-queue", dead.name)[1]["sent"] == 1
    assert (len(dead), queue.task_ids()) == (0, [letters[0].task_id])

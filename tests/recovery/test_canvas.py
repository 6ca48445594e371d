"""What a message says of what follows, where nobody can have meant it."""

import json
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from django_taskops.capture import headers as own
from django_taskops.capture.envelope import Envelope
from django_taskops.models import Chord, DeadLetter
from django_taskops.projection import writer
from django_taskops.recovery import members
from django_taskops.recovery.canvas import dead_members, following
from tests.events import Story
from tests.factories import DeadLetterFactory, TaskRunFactory


def envelope(headers: dict[str, Any], **embed: Any) -> bytes:
    body = json.dumps([[], {}, embed]).encode()
    rest: dict[str, Any] = {"properties": {}, "exchange": "", "routing_key": "q", "queue": "q"}
    about = {"id": "1", "task": "shop.tasks.price", **headers}
    return Envelope(
        body=body, content_type="application/json", content_encoding="utf-8", headers=about, **rest
    ).to_bytes()


@pytest.mark.parametrize(
    "embed",
    [
        {"chain": 5},
        {"chain": True},
        {"chain": [{"options": 5}]},
        {"chord": {"options": {"task_id": "a", "chord": 5, "chain": 7}}},
    ],
    ids=str,
)
def test_an_odd_canvas_is_one_that_can_not_be_read(embed: dict[str, Any]) -> None:
    follows = following(envelope({"group": "g"}, **embed))

    assert (follows.readable, follows.steps, list(follows.groups)) == (False, {}, ["g"])
    assert follows.envelope is not None


@pytest.mark.parametrize("joined", [5, "ab", {"a": 1}], ids=str)
def test_an_odd_header_names_no_chord(joined: Any) -> None:
    assert following(envelope({own.JOINED: joined})).groups == []


def test_no_envelope_says_nothing() -> None:
    assert following(None).envelope is None
    assert following(b"no envelope").readable


@pytest.mark.parametrize("moved", [1, 2])
def test_a_member_that_is_dead_under_another_id_is_dead(database: str, moved: int) -> None:
    Chord.objects.create(group_id="g", members=["a", "b"])
    TaskRunFactory(task_id="b", group_id="g", succeeded=True)
    before = died("a", status="superseded", group_id="g")
    for number in range(moved - 1):
        before = died(f"a{number}", status="superseded", group_id="g", requeued_from=before)
    last = died("last", group_id="g", requeued_from=before)
    assert dead_members(["g"]) == {"g": {"a"}}

    DeadLetter.objects.filter(task_id=last).update(status="requeued")
    assert dead_members(["g"]) == {}


@pytest.mark.parametrize("dead", ["first", "moved"])
def test_a_member_whose_cause_has_another_id_is_dead(database: str, dead: str) -> None:
    """Either the re-run has died, or it was revoked, so that the first letter is open again."""
    Chord.objects.create(group_id="g", members=["last step"])
    died("first", status="open" if dead == "first" else "superseded")
    if dead == "moved":
        died("moved", requeued_from="first")
    else:
        TaskRunFactory(task_id="moved", requeued_from="first", revoked=True)
    given_up = {"state": "FAILURE", "reason": "upstream_failed", "verdict": "upstream_failed"}
    TaskRunFactory(task_id="last step", group_id="g", parent_id="moved", **given_up)

    assert dead_members(["g"]) == {"g": {"last step"}}


def died(task_id: str, status: str = "open", **fields: Any) -> str:
    run = TaskRunFactory(task_id=task_id, failed=True, **fields)
    return str(DeadLetterFactory(run=run, status=status).task_id)


MANY = [f"member {number}" for number in range(150)]  # PostgreSQL looks into lists of 100 for what an index is for


@pytest.mark.mariadb
def test_where_a_member_was_moved_to_is_found_by_an_index(database: str) -> None:
    TaskRunFactory(task_id="elsewhere", requeued_from=MANY[0], succeeded=True)
    with CaptureQueriesContext(connections[database]) as captured:
        assert members.succeeded(MANY) == {MANY[0]: "elsewhere"}

    asked = [sql for query in captured if "requeued_from" in (sql := query["sql"]).partition(" WHERE ")[2]]
    assert "taskops_run_requeued" in plan_of(database, asked[0])


@pytest.mark.mariadb
def test_where_a_letter_came_from_is_found_by_an_index(database: str) -> None:
    stories = [Story(member) for member in MANY]
    with CaptureQueriesContext(connections[database]) as captured:
        writer.apply([event for story in stories for event in (story.published(requeued_from="a"), story.failed())])

    asked = [sql for query in captured if "requeued_as" in (sql := query["sql"]).partition(" WHERE ")[2]]
    assert "taskops_letter_requeued" in plan_of(database, asked[0])


def plan_of(database: str, statement: str) -> str:
    """With the tables empty or nearly so, for which PostgreSQL takes no index by itself."""
    vendor = connections[database].vendor
    with connections[database].cursor() as cursor:
        if vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"{'EXPLAIN QUERY PLAN' if vendor == 'sqlite' else 'EXPLAIN'} {statement}")
        return str(cursor.fetchall())

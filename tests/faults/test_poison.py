"""Entries that nobody has meant to write, put straight into the streams between good ones."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from django_taskops import journal
from django_taskops.journal.codec import encode
from django_taskops.journal.keys import FIELD, Keys
from django_taskops.models import QuarantinedEntry, TaskRun
from django_taskops.projection.service import drain_once, retry_quarantined
from tests.events import Story
from tests.faults.accounts import RETRIED_ONCE, retried_once, shape_of
from tests.servers import RedisServer

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("database", "journal_there"),
]


def changed(**facts: Any) -> bytes:
    """A start with these facts, as JSON has them."""
    return json.dumps(json.loads(encode(Story().started())) | facts).encode()


POISON: Mapping[str, bytes | None] = {
    "a NUL in the task id": changed(task_id="a\x00b"),
    "a NUL in the delivery": changed(delivery="a\x00b"),
    "a lone surrogate in the task id": changed(task_id="a\ud800b"),
    "a lone surrogate in the publication": changed(publication="\udfff"),
    "retries beyond any column": changed(retries=10**30),
    "retries below zero": changed(retries=-1),
    "a generation beyond its column": changed(generation=2**40),
    "nesting beyond its column": changed(nesting=2**20),
    "a process id beyond its column": changed(executor={"worker": "w", "pid": 2**70}),
    "a number of 5,000 digits": b'{"kind":"started","retries":' + b"9" * 5000 + b"}",
    "the year 99999": changed(at="99999-01-01T00:00:00+00:00"),
    "a time without its zone": changed(at="2026-01-01T00:00:00"),
    "a time that is a number": changed(at=1767225600),
    "a task id that is a number": changed(task_id=7),
    "a task id that is a list": changed(task_id=["a"]),
    "retries that are text": changed(retries="two"),
    "a delivery beyond its column": changed(delivery="d" * 300),
    "an unknown kind": changed(kind="abducted"),
    "a list": b"[]",
    "nothing": b"",
    "null": b"null",
    "nested beyond reason": b"[" * 100_000,
    "truncated JSON": encode(Story().started())[:40],
    "not UTF-8": b"\xff\xfe\x00",
    "an entry without the field": None,
    "an outcome that is text": changed(outcome="well"),
}


@pytest.mark.parametrize("what", POISON)
@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_poison_is_quarantined_alone(what: str, journal_redis: RedisServer) -> None:
    before, after = retried_once(), retried_once()
    for event in before[1]:
        put(journal_redis, encode(event))
    put(journal_redis, POISON[what])
    for event in after[1]:
        put(journal_redis, encode(event))

    drain_all()

    assert [shape_of(story.task_id) for story, _ in (before, after)] == [RETRIED_ONCE] * 2
    entry = QuarantinedEntry.objects.get()
    assert bytes(entry.data) == (POISON[what] or b"")
    assert entry.error
    assert TaskRun.objects.count() == 2
    assert retry_quarantined([entry.pk]) == (0, 1)


def test_all_poisons_at_once_among_many_good_ones(database: str, journal_redis: RedisServer) -> None:
    stories = []
    for poison in POISON.values():
        story, told = retried_once()
        stories.append(story)
        put(journal_redis, poison)
        for event in told:
            put(journal_redis, encode(event))

    drain_all()

    assert {shape_of(story.task_id) for story in stories} == {RETRIED_ONCE}
    quarantined, harmless = QuarantinedEntry.objects.count(), TaskRun.objects.count() - len(stories)
    assert quarantined + harmless == len(POISON)
    assert not harmless or database == "sqlite"  # which takes a NUL, and any text for a number


def test_events_of_the_next_version_are_applied(journal_redis: RedisServer) -> None:
    """With keys that this one has never heard of, at every level."""
    story, told = retried_once()
    for event in told:
        line, separator, envelope = encode(event).partition(b"\n")
        given = json.loads(line) | {"version": 2, "mood": {"of": ["the", "worker"]}}
        for part in ("call", "executor", "outcome"):
            if part in given:
                given[part] |= {"colour": "blue"}
        put(journal_redis, json.dumps(given).encode() + separator + envelope, extra=b"1")

    drain_all()

    assert shape_of(story.task_id) == RETRIED_ONCE
    assert not QuarantinedEntry.objects.exists()


def test_events_of_the_previous_version_are_applied(journal_redis: RedisServer) -> None:
    """With nothing but what every event must have."""
    story = Story()
    for event in (story.published(), story.started(), story.succeeded()):
        given = json.loads(encode(event).partition(b"\n")[0])
        least = {name: given[name] for name in ("kind", "task_id", "task_name", "at", "delivery") if name in given}
        put(journal_redis, json.dumps(least).encode())

    drain_all()

    assert TaskRun.objects.get(task_id=story.task_id).state == "SUCCESS"
    assert not QuarantinedEntry.objects.exists()


def put(server: RedisServer, data: bytes | None, **more: bytes) -> None:
    fields: dict[Any, Any] = {"other": b"x"} if data is None else {FIELD: data, **more}
    with server.client() as client:
        client.xadd(Keys.under("").events, fields)


def drain_all() -> None:
    drain_once(journal.sources(), 60)

"""Events survive the journal, those of other releases too; what is no event says so."""

import json
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_taskops.events import Call, Event, EventKind, Executor, Outcome
from django_taskops.journal.codec import UnreadableEvent, decode, encode
from tests.events import Story, read_event

text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
instants = st.datetimes(datetime(1970, 1, 2), datetime(8999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
counts = st.integers(0, 2**31 - 1)
calls = st.builds(
    Call,
    queue=text,
    priority=st.none() | st.integers(0, 9),
    args=values,
    kwargs=values,
    eta=st.none() | instants,
    expires=st.none() | instants,
    group_index=st.none() | counts,
    envelope=st.none() | st.binary(max_size=50),
)
outcomes = st.builds(
    Outcome,
    reason=text,
    exception_message=text,
    frames=st.lists(text, max_size=3).map(tuple),
    result=values,
    retry_at=st.none() | instants,
    dead_letter=st.booleans(),
)
executors = st.builds(Executor, worker=text, pid=st.none() | counts, acks_late=st.none() | st.booleans())
events = st.builds(
    Event,
    kind=st.sampled_from(EventKind),
    task_id=text,
    task_name=text,
    at=instants,
    generation=counts,
    retries=counts,
    call=st.none() | calls,
    executor=st.none() | executors,
    outcome=st.none() | outcomes,
    progress=st.none() | st.dictionaries(text, values, max_size=3),
)


@given(event=events)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    assert decode(encode(event)) == event


def test_its_place_in_the_journal_is_the_journals_to_say() -> None:
    assert read_event(encode(Story().started()), position=7).position == 7


def test_what_a_later_release_adds_is_passed_over() -> None:
    event = replace(Story().failed(), position=0)
    line = json.loads(encode(event))
    line |= {"version": 2, "colour": "blue"}
    line["outcome"]["mood"] = "grave"
    line["executor"]["host"] = {"name": "a"}

    assert decode(json.dumps(line).encode()) == event


def test_what_an_earlier_release_did_not_write_has_its_default() -> None:
    line = {"kind": "succeeded", "task_id": "1", "task_name": "price", "at": "2026-01-01T00:00:00+00:00", "call": {}}

    event = read_event(json.dumps(line).encode())

    assert event.call == Call()
    assert (event.delivery, event.outcome, event.retries) == ("", None, 0)


def test_what_is_empty_is_left_out() -> None:
    line = json.loads(encode(Story().succeeded()))

    assert not {"nesting", "progress", "position", "call"} & line.keys()
    assert set(line["executor"]) == {field.name for field in fields(Executor)}


def entry(**changes: Any) -> bytes:
    return json.dumps(json.loads(encode(Story().started())) | changes).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        encode(Story().started())[:-9],
        entry(kind="exploded"),
        entry(at="yesterday"),
        entry(at="2026-01-01T00:00:00"),
        entry(at=12),
        entry(task_id="a\x00b"),
        entry(task_id=7),
        entry(delivery="d" * 37),
        entry(retries="two"),
        entry(retries=-1),
        entry(generation=2**31),
        entry(nesting=True),
        entry(executor="w1"),
        entry(executor=[1]),
        entry(outcome={"frames": 7}),
        entry() + b"\nan envelope without a call",
        b"[" * 100_000,
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableEvent, match="expected an event, got"):
        decode(data)

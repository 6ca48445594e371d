"""What a message says of what follows, where nobody can have meant it."""

import json
from typing import Any

import pytest

from django_taskops.capture import headers as own
from django_taskops.capture.envelope import Envelope
from django_taskops.recovery.canvas import following


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

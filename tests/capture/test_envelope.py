"""The envelope survives its storage, and says why when it can't be made or read."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from django_taskops.capture.envelope import Envelope, PayloadTooLarge
from django_taskops.exceptions import EnvelopeError


def envelope(**changes: Any) -> Envelope:
    fields: dict[str, Any] = {
        "body": b'[[1], {}, {"chain": null}]',
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {"id": "1", "task": "shop.tasks.price", "retries": 2, "eta": "2026-01-01T00:00:00", "x-death": []},
        "properties": {"priority": 3},
        "exchange": "",
        "routing_key": "celery",
        "queue": "celery",
    }
    return Envelope(**fields | changes)


@given(body=st.binary(), headers=st.dictionaries(st.text(), st.text() | st.integers() | st.datetimes() | st.none()))
def test_any_body_and_headers_come_back_as_they_were(body: bytes, headers: dict[str, Any]) -> None:
    kept = envelope(body=body, headers=headers)

    assert Envelope.from_bytes(kept.to_bytes()) == kept


def test_a_body_beyond_the_limit_is_refused_with_both_sizes(settings: Settings) -> None:
    settings.TASKOPS = {"PAYLOAD_MAX_BYTES": 10}

    with pytest.raises(PayloadTooLarge, match="payload of 26 bytes exceeds the limit of 10"):
        envelope().to_bytes()


@pytest.mark.parametrize(
    "blob", [b"", b"{}", b"\xff\xfe", b"[1]", b'{"version": 1, "body": 5}', base64.b64encode(b"x")]
)
def test_what_is_no_envelope_is_refused(blob: bytes) -> None:
    with pytest.raises(EnvelopeError, match="expected an envelope"):
        Envelope.from_bytes(blob)


def test_an_envelope_of_a_later_version_is_not_guessed_at() -> None:
    later = envelope().to_bytes().replace(b'"version": 1', b'"version": 2')

    with pytest.raises(EnvelopeError, match="of version 1, got 2"):
        Envelope.from_bytes(later)


def test_another_send_starts_again_without_what_belonged_to_the_send_before() -> None:
    sent = envelope().sent_anew(taskops_generation=1)

    assert sent.headers == {"id": "1", "task": "shop.tasks.price", "retries": 0, "eta": None, "taskops_generation": 1}
    assert sent.body == envelope().body


def test_what_a_later_release_has_added_is_passed_over() -> None:
    line, _, body = envelope().to_bytes().partition(b"\n")
    later = json.dumps(json.loads(line) | {"invented": 1}).encode()

    assert Envelope.from_bytes(later + b"\n" + body) == envelope()

"""Who a message is: a retry and a replacement keep their publication, everything else gets a new one."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from django_taskops.capture import headers as own


def running(task_id: str, **headers: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"id": task_id, "retries": 0} | headers)


def test_publications_sort_by_the_time_of_their_making() -> None:
    made = [own.new_publication() for _ in range(100)]

    assert made == sorted(made)
    assert len(set(made)) == 100
    assert {len(publication) for publication in made} == {32}


def test_a_publish_gets_a_publication_of_its_own_whatever_it_carries() -> None:
    headers = {"id": "b", own.PUBLICATION: "parent's", own.GENERATION: 3, own.OWNER: "li"}
    own.stamp(headers, running("a", taskops_publication="parent's", taskops_generation=3))

    assert headers[own.PUBLICATION] != "parent's"
    assert own.GENERATION not in headers
    assert headers[own.OWNER] == "li"


def test_a_task_that_publishes_its_own_id_goes_on_as_what_it_is() -> None:
    for counted in ({"retries": 1}, {"replaced_task_nesting": 1}):
        headers: dict[str, Any] = {"id": "a", **counted}
        own.stamp(headers, running("a", taskops_publication="p", taskops_generation=2, taskops_nonce="n"))

        assert headers == {"id": "a", **counted, own.PUBLICATION: "p", own.GENERATION: 2, own.NONCE: "n"}


def test_what_else_is_published_during_a_send_is_no_part_of_it() -> None:
    """As by a project's receiver of `before_task_publish` that writes an audit by a task."""
    audit: dict[str, Any] = {"id": "audit"}
    member: dict[str, Any] = {"id": "b"}
    with own.sent_as("p", ["a", "b"], taskops_outlives_revoke=True):
        own.stamp(audit, None)
        own.stamp(member, None)

    assert audit[own.PUBLICATION] != "p"
    assert not audit.keys() & {own.NONCE, own.OUTLIVES}
    assert (member[own.PUBLICATION], member[own.OUTLIVES]) == ("p", True)


def test_the_name_of_a_delivery_never_goes_on_the_wire() -> None:
    """Celery gives a retry all the headers that its request has."""
    headers: dict[str, Any] = {"id": "a", "retries": 1, own.DELIVERY: "that of the attempt before"}
    own.stamp(headers, running("a", taskops_publication="p"))

    assert own.DELIVERY not in headers


def test_a_task_that_publishes_its_own_id_anew_is_a_new_publication() -> None:
    """As tasks do that poll: `self.apply_async(task_id=self.request.id, countdown=60)`."""
    headers: dict[str, Any] = {"id": "a", "retries": 0}
    own.stamp(headers, running("a", taskops_publication="p", taskops_generation=2))

    assert headers[own.PUBLICATION] != "p"
    assert own.GENERATION not in headers


def test_a_message_from_a_publisher_without_this_app_stays_without_publication_when_it_is_retried() -> None:
    headers: dict[str, Any] = {"id": "a", "retries": 1}
    own.stamp(headers, running("a"))

    assert own.PUBLICATION not in headers
    assert own.identity(headers)["publication"] == ""


@pytest.mark.parametrize("odd", [None, "7", -1, 2**40, True])
def test_odd_counts_in_a_message_are_no_counts(odd: Any) -> None:
    assert own.identity({"retries": odd, own.GENERATION: odd})["retries"] == 0


def test_the_time_of_the_send_is_that_of_the_last_requeue() -> None:
    earlier, later = own.new_publication(), own.new_publication()

    assert own.sent_at({own.PUBLICATION: earlier, own.NONCE: later}) == int(later[:16], 16) / 1e6
    assert abs((own.sent_at({own.PUBLICATION: earlier}) or 0) - time.time()) < 60
    assert own.sent_at({}) is None
    assert own.sent_at({own.PUBLICATION: "not hexadecimal at all"}) is None


def test_a_message_of_a_publisher_without_this_app_is_never_superseded() -> None:
    """One of today looks like one of yesterday under the same id."""
    assert own.superseded("nightly", "", 0) == ""
    assert own.superseded("nightly", "0001", 0) != own.superseded("nightly", "0002", 0)
    assert len(own.superseded("x" * 255, "0001", 0)) < 100

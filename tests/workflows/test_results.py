"""The results of a chord's members are kept once one of them has failed, and what is lost is named before anything is
sent."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from celery import chord, current_app
from django.utils import timezone
from pytest_django import Settings

from django_taskops.exceptions import NotRequeueable
from django_taskops.models import Chord, DeadLetter, TaskRun
from django_taskops.projection import writer
from django_taskops.recovery import pollers, requeue
from django_taskops.recovery.canvas import Following, KnownChords
from django_taskops.recovery.joins import Joins
from django_taskops.recovery.members import Members
from tests.events import Story
from tests.workflows.workflow import Workflow, result_of, settled

pytestmark = pytest.mark.parametrize("database", ["default"], indirect=True)


def test_they_outlive_the_result_backend(flow: Workflow) -> None:
    flow.breaks("a")
    last: Any = chord([flow.a, flow.b], flow.body).delay()
    settled(lambda: Chord.objects.get(group_id=last.parent.id).results.count() == 1)
    current_app.AsyncResult(flow.run("b").task_id).forget()
    flow.requeue("a")

    settled(lambda: flow.state("body") == "SUCCESS")
    assert result_of(last.id) == "body(['a()', 'b()'])"


def test_a_member_whose_result_is_lost_is_named_and_may_run_again(flow: Workflow) -> None:
    flow.breaks("a")
    lost = flow.step("b").set(ignore_result=True)
    chord([flow.a, lost], flow.body).delay()
    letter = flow.letter("a")
    settled(lambda: Chord.objects.get(group_id=flow.run("a").group_id).lost == [flow.run("b").task_id])
    flow.heal("a")

    with pytest.raises(NotRequeueable) as refused:
        requeue(letter)
    assert refused.value.code == "chord_results_lost"
    assert flow.run("b").task_id in refused.value.detail
    assert DeadLetter.objects.get(pk=letter.pk).status == "open"

    again = flow.run("b").task_id
    flow.step("b").apply_async(task_id=again)
    settled(lambda: flow.succeeded("b") == 2 and flow.state("b") == "SUCCESS")
    requeue(letter, force=True)
    settled(lambda: flow.state("body") == "SUCCESS")
    assert flow.run("body").result == "body(['a()', 'b()'])"


@pytest.fixture
def half(database: str, redis_url: str) -> Chord:
    """A chord of which one member has succeeded and the other one is dead. Nobody has looked at it yet."""
    good, bad = Story(), Story()
    current_app.backend.store_result(good.task_id, "fine", "SUCCESS")
    told: Chord = Chord.objects.create(group_id=bad.task_id, members=[good.task_id, bad.task_id], body="body")
    writer.apply([each.published(group_id=told.group_id) for each in (good, bad)])
    writer.apply([good.started(), good.succeeded("fine"), bad.started(), bad.failed()])
    return told


class Killed(BaseException):
    pass


@pytest.mark.parametrize("error", [ConnectionError, Killed])
def test_they_are_kept_later_where_they_can_not_be_read_now(
    half: Chord, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    backend_is_away(monkeypatch, error)
    with suppress(Killed):
        Joins()()
    monkeypatch.undo()
    Joins()()

    half.refresh_from_db()
    assert (half.results.count(), half.touched) == (1, False)


def test_a_chord_that_can_not_be_looked_at_waits_for_the_reminder(half: Chord, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = backend_is_away(monkeypatch, ConnectionError)
    chore = Joins()
    chore()
    chore()
    assert len(asked) == 1

    chore._remind_at = 0.0
    chore()
    assert len(asked) == 2


def test_what_happens_to_a_chord_while_it_is_looked_at_is_seen(half: Chord, monkeypatch: pytest.MonkeyPatch) -> None:
    late, keep = Story(), Members.keep
    Chord.objects.filter(pk=half.pk).update(members=[*half.members, late.task_id])
    writer.apply([late.published(group_id=half.group_id), late.started()])
    current_app.backend.store_result(late.task_id, "fine too", "SUCCESS")

    def keep_and_end(members: Members) -> bool:
        more = keep(members)
        writer.apply([late.succeeded("fine too")])
        return more

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Members, "keep", keep_and_end)
        Joins()()
    Joins()()

    assert half.results.count() == 2


def test_what_is_too_large_to_be_kept_has_to_be_in_the_result_backend_still(half: Chord, settings: Settings) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "PAYLOAD_MAX_BYTES": 2}
    Joins()()
    letter, follows = DeadLetter.objects.get(), Following(groups=[half.group_id])
    good, _bad = half.members
    KnownChords().check(letter, follows)
    TaskRun.objects.update(finished_at=timezone.now() - timedelta(minutes=1))
    current_app.AsyncResult(good).forget()

    with pytest.raises(NotRequeueable, match=good) as refused:
        KnownChords().check(letter, follows)
    assert refused.value.code == "chord_results_lost"
    assert half.results.count() == 0


def test_a_result_backend_that_is_away_refuses_nothing_and_is_asked_once(
    half: Chord, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Chord.objects.create(group_id="other", members=half.members)
    asked = backend_is_away(monkeypatch, ConnectionError)
    monkeypatch.setattr(pollers, "impatient", lambda app: app.backend)

    KnownChords().check(DeadLetter.objects.get(), Following(groups=[half.group_id, other.group_id]))
    assert len(asked) == 1


def backend_is_away(monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> list[str]:
    """The ids it is asked for."""
    asked: list[str] = []

    def refuse(task_id: str, **_options: Any) -> Any:
        asked.append(task_id)
        raise error("away")

    monkeypatch.setattr(current_app.backend, "get_task_meta", refuse)
    return asked

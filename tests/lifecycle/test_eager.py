"""Tasks that run in the process of their caller."""

from collections.abc import Iterator
from typing import NoReturn

import pytest
from celery import current_app
from pytest_django import Settings

from django_taskops.models import TaskRun
from tests import tasks
from tests.lifecycle import tasks as more
from tests.lifecycle.cases import key, run_of, shows

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def eager(database: str, settings: Settings) -> Iterator[None]:
    settings.TASKOPS = {**settings.TASKOPS, "RECORD_EAGER": True}
    yield
    current_app.conf.task_always_eager = current_app.conf.task_eager_propagates = False


def test_eager_endings(eager: None) -> None:
    assert shows(run_of(tasks.add.apply((1, 2))), "eager, it returns")
    assert shows(run_of(tasks.fail.apply()), "eager, an exception")
    assert shows(run_of(tasks.flaky.apply((key(), 1))), "eager, retries, then it returns")


def test_an_exception_that_was_being_handled_before_the_task_began_is_not_the_tasks(eager: None) -> None:
    """A worker that has lost its broker forks new children while it handles that: they handle it ever after."""
    try:
        _lose_the_broker()
    except ConnectionError:
        published = tasks.add.apply((1, 2)), tasks.fail.apply()

    assert shows(run_of(published[0]), "eager, it returns")
    assert shows(run_of(published[1]), "eager, an exception")
    assert run_of(published[1]).exception_type == "tests.tasks.Declined"


def test_an_eager_retry_that_is_not_thrown_sends_nothing(eager: None) -> None:
    """Celery runs it again only where it leaves by the Retry."""
    assert shows(run_of(more.retry_without_throwing.apply((key(),))), "eager, it returns")


def _lose_the_broker() -> NoReturn:
    raise ConnectionError("the broker is away")


def test_an_eager_exception_that_is_propagated(eager: None) -> None:
    current_app.conf.task_always_eager = current_app.conf.task_eager_propagates = True
    with pytest.raises(tasks.Declined):
        tasks.fail.delay()

    assert shows(TaskRun.objects.get(), "eager, an exception, propagated")

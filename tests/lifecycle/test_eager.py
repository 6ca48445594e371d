"""Tasks that run in the process of their caller."""

from collections.abc import Iterator

import pytest
from celery import current_app
from pytest_django import Settings

from django_taskops.models import TaskRun
from tests import tasks
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


def test_an_eager_exception_that_is_propagated(eager: None) -> None:
    current_app.conf.task_always_eager = current_app.conf.task_eager_propagates = True
    with pytest.raises(tasks.Declined):
        tasks.fail.delay()

    assert shows(TaskRun.objects.get(), "eager, an exception, propagated")

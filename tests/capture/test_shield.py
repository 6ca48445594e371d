"""The seam with Celery: an error of ours is logged once a minute and never reaches the task."""

import logging
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from kombu.serialization import dumps as kombu_dumps

from django_taskops.capture import receivers, request, shield, takeover, wrapper
from django_taskops.capture.progress import _report
from tests.tasks import add
from tests.workers import BrokerQueue

HOOKS = [
    *(hook for name, hook in receivers._RECEIVERS.items() if "publish" not in name),
    request._look_for_success,
    request._tell,
    request._tell_error,
    request._tell_error,
    request._tell_revoked,
    takeover._take_over,
    wrapper._begin,
    _report,
]


class Explosive:
    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(f"our code has a bug at {name}")


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__qualname__)
def test_no_hook_lets_an_error_of_ours_through(hook: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    shield._last_logged.clear()
    names = hook.__wrapped__.__code__.co_varnames[: hook.__wrapped__.__code__.co_argcount]  # type: ignore[attr-defined]

    with caplog.at_level(logging.ERROR, "django_taskops"):
        for _ in range(3):
            assert hook(**dict.fromkeys(names, Explosive())) is None

    assert len(caplog.records) == 1
    assert f"{hook.__qualname__} failed; the task goes on" in caplog.text


def test_a_publish_succeeds_while_our_journal_is_broken(
    queue: BrokerQueue, broken_journal: None, caplog: pytest.LogCaptureFixture
) -> None:
    shield._last_logged.clear()
    results = [add.delay(1, 2) for _ in range(3)]

    assert queue.task_ids() == [result.id for result in results]
    told = [record.args for record in caplog.records if record.name == "django_taskops"]
    assert told.count(("after_task_publish",)) == 1  # once a minute
    assert told.count(("before_task_publish",)) <= 1  # it asks the journal only where it knows who publishes


def test_it_is_logged_again_a_minute_later(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    @shield.shielded
    def broken_hook() -> None:
        raise RuntimeError

    for clock[0] in (1000.0, 1059.0, 1060.0):
        broken_hook()

    assert len(caplog.records) == 2


def test_a_log_handler_of_the_projects_that_raises_does_not_reach_the_task() -> None:
    class Away(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> NoReturn:
            raise ConnectionError("the log collector is away")

    @shield.shielded
    def unlogged_hook() -> None:
        raise RuntimeError

    away = Away()
    shield.logger.addHandler(away)
    try:
        assert unlogged_hook() is None
    finally:
        shield.logger.removeHandler(away)


def test_the_soft_time_limit_of_the_users_task_goes_through() -> None:
    @shield.shielded
    def interrupted() -> None:
        raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        interrupted()


def test_the_soft_time_limit_that_strikes_inside_kombu_goes_through_as_itself() -> None:
    @shield.shielded
    def interrupted() -> None:
        kombu_dumps(Interrupted(), serializer="json")

    with pytest.raises(SoftTimeLimitExceeded):
        interrupted()


class Interrupted:
    def __json__(self) -> NoReturn:
        raise SoftTimeLimitExceeded

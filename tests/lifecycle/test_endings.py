"""Every way to end, on every pool and broker: one worker each, all cases at once, collected under one deadline."""

import time

import pytest

from django_taskops.models import DeadLetter, TaskRun
from django_taskops.states import LetterStatus
from tests.lifecycle.cases import BROKERS, CASES, POOLS, Case, Published, run_of
from tests.workers import WorkerStarter

SECONDS = 60
SPINE = (
    "it returns",
    "an exception, no retry policy",
    "autoretry, then it returns",
    "autoretry until none is left",
    "`self.retry()` until none is left",
    "`Ignore`",
    "`Reject`",
    "`self.replace()`",
    "revoked before it starts",
    "expired in the queue",
    "a name that no worker knows",
    "a body that is garbage",
    "no header `id`",
)
WORKERS = [("default", pool, broker) for pool in POOLS for broker in BROKERS] + [("sqlite", "prefork", "redis")]

Verdict = tuple[str, str, int, int]
"""State, reason, starts, letters."""


@pytest.mark.parametrize(("database", "pool", "broker"), WORKERS, indirect=["database", "broker"])
def test_every_ending(start_worker: WorkerStarter, pool: str, request: pytest.FixtureRequest) -> None:
    broker = request.node.callspec.params["broker"]
    start_worker(pool=pool)
    _check_all({name: case for name, case in CASES.items() if case.is_seen(pool, broker)})


@pytest.mark.parametrize("database", ["default"], indirect=True)
def test_the_spine_on_gevent(start_worker: WorkerStarter) -> None:
    start_worker(pool="gevent")
    _check_all({name: CASES[name] for name in SPINE})


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_the_spine_on_mariadb(start_worker: WorkerStarter) -> None:
    start_worker()
    _check_all({name: CASES[name] for name in SPINE})


def _check_all(cases: dict[str, Case]) -> None:
    published = {name: case.publish() for name, case in cases.items()}
    for name, case in cases.items():
        if case.then:
            case.then(published[name])
    expected = {name: (case.state, case.reason, case.starts, int(case.letter)) for name, case in cases.items()}
    found = _collected(published, expected)
    assert {name: (verdict, expected[name]) for name, verdict in found.items() if verdict != expected[name]} == {}
    letters = DeadLetter.objects.filter(status=LetterStatus.OPEN, envelope__isnull=False)
    assert letters.count() == sum(case.letter for case in cases.values())


def _collected(published: dict[str, Published], expected: dict[str, Verdict]) -> dict[str, Verdict | None]:
    """What stands in the tables once all of that is what is expected, or the time is up."""
    deadline = time.monotonic() + SECONDS
    while True:
        found = {name: _verdict(sent) for name, sent in published.items()}
        if found == expected or time.monotonic() > deadline:
            return found


def _verdict(published: Published) -> Verdict | None:
    try:
        run = run_of(published)
    except TaskRun.DoesNotExist:
        return None
    return (run.state, run.reason, run.starts(), run.dead_letters.count())

"""`@tracked_task`: what it refuses, what it sets, and what type checkers know of its result."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Task, current_app, shared_task
from celery.exceptions import MaxRetriesExceededError

from django_taskops import set_progress, tracked_task
from django_taskops.capture import headers as own
from django_taskops.exceptions import InvalidOption, TaskOpsError
from tests.tasks import tracked_add

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_retries": -1}, "max_retries=...): expected a count of at least 0, or None for no limit, got -1"),
        ({"max_retries": "3"}, "max_retries=...): expected a count"),
        (
            {"autoretry_for": OSError},
            "autoretry_for=...): expected a tuple of exception classes, got <class 'OSError'>",
        ),
        ({"dont_autoretry_for": ("OSError",)}, "expected a tuple of exception classes"),
        ({"retry_backoff": -2}, "expected True, False or seconds above 0"),
        ({"retry_backoff_max": 0}, "expected seconds above 0"),
        ({"retry_backoff_max": float("inf")}, "expected seconds above 0"),
        ({"retry_backoff": 10**400}, "expected True, False or seconds above 0"),
        ({"stale_after": float("nan")}, "expected seconds above 0, or None"),
        ({"retry_jitter": "yes"}, "expected True or False"),
        ({"retry_for": True}, "expected seconds above 0, or None"),
        ({"dead_letter": None}, "expected True or False"),
        ({"dead_letter_queue": ""}, "expected the name of a queue, or None"),
        ({"on_exhausted": "explode"}, "expected 'fail'"),
        ({"idempotent": 1}, "expected True or False"),
        ({"stale_after": 0}, "expected seconds above 0, or None"),
        ({"sensitive": "card_number"}, "expected a tuple of argument names, got 'card_number'"),
        ({"fingerprint": 3}, "expected a text, a callable or None"),
    ],
)
def test_a_wrong_option_is_refused_when_the_decorator_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption) as refusal:
        tracked_task(**options)

    assert message in str(refusal.value)


def test_options_must_be_passed_by_keyword() -> None:
    with pytest.raises(TypeError, match="expected a function, got 5"):
        tracked_task(5)  # type: ignore[call-overload]


def test_a_bare_tracked_task_retries_three_times_with_backoff_and_jitter() -> None:
    task: Any = current_app.tasks["tests.tasks.tracked_add"]

    assert (task.max_retries, task.retry_backoff, task.retry_jitter) == (3, True, True)
    assert task.taskops.dead_letter


def test_any_option_of_shared_task_is_passed_on() -> None:
    @tracked_task(name="tests.passed_on", rate_limit="1/s", acks_late=True, throws=(KeyError,))
    def passed_on() -> None: ...

    task: Any = current_app.tasks["tests.passed_on"]
    assert (task.rate_limit, task.acks_late, task.throws) == ("1/s", True, (KeyError,))


class Patient(Task):  # type: ignore[type-arg]
    throws = (KeyError,)
    dont_autoretry_for = (LookupError,)
    max_retries: int | None = 9
    retry_backoff = 30


class MorePatient(Patient):
    max_retries = None


def policy_of(name: str, **options: Any) -> Any:
    def task() -> None:
        raise KeyError

    tracked_task(name=name, **options)(task)
    return current_app.tasks[name]


def test_what_a_base_class_says_counts_as_if_it_were_given_here() -> None:
    task = policy_of("tests.patient", base=MorePatient, retry_backoff=5)

    assert (task.max_retries, task.retry_backoff, task.retry_jitter) == (None, 5, True)
    assert {KeyError, LookupError, MemoryError} <= set(task.dont_autoretry_for)
    assert policy_of("tests.less_patient", base=Patient).retry_backoff == 30


def test_the_exceptions_that_a_base_class_expects_are_not_retried() -> None:
    with pytest.raises(KeyError):
        policy_of("tests.expecting", base=Patient).apply(throw=True)


@pytest.mark.parametrize("wait", [{"default_retry_delay": 300}, {"retry_kwargs": {"countdown": 300}}])
def test_a_wait_that_was_asked_for_is_not_replaced_by_a_backoff(wait: dict[str, Any]) -> None:
    task = policy_of(f"tests.waiting_{next(iter(wait))}", **wait)

    assert not getattr(task, "retry_backoff", False)
    assert (task.default_retry_delay, getattr(task, "retry_kwargs", {})) in [(300, {}), (180, {"countdown": 300})]


def test_a_retry_that_is_told_nothing_else_goes_at_once_where_the_task_has_no_delay() -> None:
    task = policy_of("tests.at_once", default_retry_delay=None, retry_for=60, autoretry_for=())
    task.push_request(id="a", called_directly=False, is_eager=True, **{own.PUBLICATION: own.new_publication()})
    try:
        assert task.retry(throw=False).when is None
    finally:
        task.pop_request()


def test_a_grant_that_is_no_count_is_none() -> None:
    task = policy_of("tests.granted", max_retries=0)
    task.push_request(id="a", called_directly=False, is_eager=True, **{own.ATTEMPTS: "3"})
    try:
        with pytest.raises(MaxRetriesExceededError):
            task.retry(throw=False)
    finally:
        task.pop_request()


def test_a_backoff_that_was_asked_for_is_kept_beside_a_delay() -> None:
    assert policy_of("tests.both", default_retry_delay=300, retry_backoff=2).retry_backoff == 2


@pytest.mark.parametrize("number", [10**400, float("nan"), float("-inf"), True, "3"])
def test_a_progress_that_is_no_number_is_refused(number: Any) -> None:
    with pytest.raises(TaskOpsError, match="expected a number"):
        set_progress(number)
    with pytest.raises(TaskOpsError, match="expected a number or None"):
        set_progress(1, number)


def test_calling_it_is_a_plain_call() -> None:
    assert tracked_add(1, 2) == 3


def test_a_plain_call_that_fails_raises_what_it_raises() -> None:
    @tracked_task(name="tests.plainly_failing")
    def plainly_failing() -> None:
        raise KeyError("sku")

    with pytest.raises(KeyError):
        plainly_failing()


@pytest.mark.parametrize("eager", [tracked_task(name="tests.eager_tracked"), shared_task(name="tests.eager_shared")])
def test_eager_runs_give_results(eager: Any) -> None:
    def double(x: int) -> int:
        return 2 * x

    assert eager(double).apply(args=(4,)).get() == 8


CHECKED = """
from django_taskops import tracked_task

@tracked_task
def bare(order: int, note: str = "") -> bool:
    return True

@tracked_task(bind=True, max_retries=5)
def bound(self: object, order: int) -> str:
    return ""

@tracked_task(max_retries=1)
def with_options(order: int) -> str:
    return ""

bare.delay(1, note="x")
bound.delay(1)
with_options.delay(order=1)
reveal_type(bare(1))
bare.delay("1")
bound.delay(1, 2)
with_options.delay()
"""


def test_type_checkers_check_the_arguments_of_delay(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="expected mypy; install the extra `lint`")
    source = tmp_path / "checked.py"
    source.write_text(CHECKED)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(source)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout

    # By name: mypy's cache may remember the folder of an earlier run.
    told = [line.split(f"{source.name}:", 1)[1] for line in found.splitlines() if f"{source.name}:" in line]
    assert [line.split(":")[0] for line in told] == ["19", "20", "21", "22"], found
    assert 'Revealed type is "bool"' in told[0] or "builtins.bool" in told[0]

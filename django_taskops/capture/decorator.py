"""`@tracked_task`: Celery's own autoretry with safe defaults, and what becomes of a task that fails for good."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

from celery import Task, shared_task
from celery.exceptions import Reject, SoftTimeLimitExceeded

from .options import OWN_OPTIONS, TaskOptions, check
from .retry import guarded_retry

if TYPE_CHECKING:
    from celery.canvas import Signature
    from celery.result import AsyncResult, EagerResult

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

NEVER_RETRIED = (SoftTimeLimitExceeded, MemoryError, Reject)


class TrackedTask(Protocol, Generic[P, R_co]):
    """What `@tracked_task` returns, as far as type checkers look: a Celery task that knows its arguments."""

    name: str
    app: Any
    request: Any

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def delay(self, *args: P.args, **kwargs: P.kwargs) -> "AsyncResult[Any]": ...
    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> "AsyncResult[Any]": ...
    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> "EagerResult[Any]": ...
    def s(self, *args: Any, **kwargs: Any) -> "Signature[Any]": ...
    def si(self, *args: P.args, **kwargs: P.kwargs) -> "Signature[Any]": ...
    def signature(self, *args: Any, **kwargs: Any) -> "Signature[Any]": ...
    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> None: ...
    def apply_async_on_commit(self, args: Any = None, kwargs: Any = None, **options: Any) -> None: ...
    def retry(self, *args: Any, **kwargs: Any) -> Any: ...
    def map(self, it: Any) -> "Signature[Any]": ...
    def starmap(self, it: Any) -> "Signature[Any]": ...
    def chunks(self, it: Any, n: int) -> "Signature[Any]": ...
    def AsyncResult(self, task_id: str, **kwargs: Any) -> "AsyncResult[Any]": ...  # noqa: N802 Celery's name


class _Decorator(Protocol):
    def __call__(self, function: Callable[P, R]) -> TrackedTask[P, R]: ...


class _BoundDecorator(Protocol):
    def __call__(self, function: Callable[Concatenate[Any, P], R]) -> TrackedTask[P, R]: ...


@overload
def tracked_task(function: Callable[P, R], /) -> TrackedTask[P, R]: ...
@overload
def tracked_task(*, bind: Literal[True], **options: Any) -> _BoundDecorator: ...
@overload
def tracked_task(*, bind: Literal[False] = False, **options: Any) -> _Decorator: ...


def tracked_task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """A `shared_task` with a retry policy and a dead letter when it fails for good.

    Retries any exception 3 times with exponential backoff and full jitter, unless told otherwise by Celery's own
    options; never arguments that do not bind, soft time limits, MemoryError and the task's `throws`. A retried task
    must be idempotent. Besides the options of `shared_task`: `retry_for` (seconds: no retry starts later than this
    after the publish), `dead_letter`, `dead_letter_queue`, `on_exhausted`, `idempotent`, `stale_after` (seconds),
    `sensitive` (argument names to redact), `fingerprint`.

    Raises InvalidOption when the decorator runs.
    """
    if function is not None and not callable(function):
        raise TypeError(f"tracked_task: expected a function, got {function!r}: pass options by keyword")
    check(options)
    return _decorate(function, options) if function else lambda declared: _decorate(declared, options)


def _decorate(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    own = {name: value for name, value in options.items() if name in OWN_OPTIONS}
    own["sensitive"] = tuple(own.get("sensitive", ()))
    given = {name: value for name, value in options.items() if name not in OWN_OPTIONS}
    told = _inherited(given.get("base")) | given
    policy = {name: value for name, value in _DEFAULTS.items() if name not in told}
    if "default_retry_delay" in told or "countdown" in (told.get("retry_kwargs") or ()):
        policy.pop("retry_backoff", None)  # a backoff would take no notice of it
    policy["dont_autoretry_for"] = (*NEVER_RETRIED, *told.get("dont_autoretry_for", ()), *told.get("throws", ()))
    declare: Any = shared_task
    return declare(taskops=TaskOptions(**own), retry=guarded_retry, **{**given, **policy})(function)


def _inherited(base: Any) -> dict[str, Any]:
    """The options that the project's own base class has told, as its attributes."""
    told: dict[str, Any] = {}
    for owner in reversed(getattr(base, "__mro__", ())):
        told = {} if owner is Task else told | {name: vars(owner)[name] for name in _INHERITED if name in vars(owner)}
    return told


_INHERITED = (
    "autoretry_for",
    "dont_autoretry_for",
    "throws",
    "max_retries",
    "default_retry_delay",
    "retry_kwargs",
    "retry_backoff",
    "retry_backoff_max",
    "retry_jitter",
)
_DEFAULTS: dict[str, Any] = {
    "autoretry_for": (Exception,),
    "max_retries": 3,
    "retry_backoff": True,
    "retry_backoff_max": 600,
    "retry_jitter": True,
}

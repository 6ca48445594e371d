"""What this process has seen of each delivery that it executes."""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from celery.exceptions import Retry

from ..events import Executor


@dataclass(slots=True)
class Span:
    """A delivery under way. `chain` are its next steps, the last one first; Celery up to 5.6 takes them away one by
    one. `around` is the exception that was being handled already when it began: a child that was forked by a worker
    which handles one, a lost connection say, handles it for the rest of its life."""

    delivery: str
    chain: tuple[Any, ...] = ()
    returned: bool = False
    raised: BaseException | None = None
    retry_refused: bool = False
    retry_sent: Retry | None = None
    let_out: bool = False  # it could not be parked
    ended: bool = False
    progress_told: float = 0.0
    executor: Executor | None = None
    around: BaseException | None = None


spans: WeakKeyDictionary[Any, Span] = WeakKeyDictionary()
"""By request, and not on it: a project may well serialize the attributes of a request."""


def span_of(request: Any) -> Span | None:
    return None if request is None else spans.get(request)

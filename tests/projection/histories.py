"""Histories of one run as hypothesis strategies: what its publishers and its workers may have seen."""

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from django_taskops.events import Call, Event, EventKind, Executor, Outcome

START = datetime(2026, 1, 1, tzinfo=UTC)
PUBLICATIONS = ("", "0001", "0002")

ENDINGS: tuple[tuple[EventKind, ...], ...] = (
    (),
    (EventKind.SUCCEEDED,),
    (EventKind.SUCCEEDED, EventKind.WORKER_LOST),
    (EventKind.SUCCESS_STORED,),
    (EventKind.RETRIED, EventKind.SUCCESS_STORED),
    (EventKind.FAILED,),
    (EventKind.FAILED, EventKind.WORKER_LOST),
    (EventKind.FAILED, EventKind.TIMED_OUT),
    (EventKind.RETRIED,),
    (EventKind.IGNORED,),
    (EventKind.REJECTED,),
    (EventKind.TIMED_OUT,),
    (EventKind.REVOKED,),
)
"""What the processes of a worker may say, all of it, of the end of one delivery."""


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Up to two publications of up to three generations, each with up to three deliveries, in the order they happen."""
    events: list[Event] = []
    publications = draw(st.lists(st.sampled_from(PUBLICATIONS), min_size=1, max_size=2, unique=True).map(sorted))
    for publication in publications:
        for generation in range(draw(st.integers(1, 3))):
            events += draw(_generations(publication, generation, first=len(events)))
    return events


@st.composite
def _generations(draw: st.DrawFn, publication: str, generation: int, first: int) -> list[Event]:
    events = [_event(EventKind.PUBLISHED, publication, generation, first, call=Call(queue=f"q{generation}"))]
    retries, told = 0, []
    for number in range(draw(st.integers(0, 3))):
        told.append([(kind, f"{publication}-{generation}-{number}", retries) for kind in draw(_deliveries())])
        retries += draw(st.integers(0, 1))
    while left := [delivery for delivery in told if delivery]:  # side by side, where the broker delivers twice
        kind, delivery, attempt = draw(st.sampled_from(left)).pop(0)
        events.append(_event(kind, publication, generation, first + len(events), delivery, attempt))
    return events


@st.composite
def _deliveries(draw: st.DrawFn) -> list[EventKind]:
    seen = [kind for kind in (EventKind.RECEIVED, EventKind.STARTED) if draw(st.booleans())]
    return [*seen, *draw(st.sampled_from(ENDINGS))] or [EventKind.STARTED]


def _event(
    kind: EventKind,
    publication: str,
    generation: int,
    place: int,
    delivery: str = "",
    retries: int = 0,
    call: Call | None = None,
) -> Event:
    dies = kind in (EventKind.FAILED, EventKind.TIMED_OUT, EventKind.WORKER_LOST, EventKind.REJECTED)
    return Event(
        kind=kind,
        task_id="run",
        task_name="shop.tasks.price",
        at=START + timedelta(seconds=place),
        position=place + 1,
        publication=publication,
        generation=generation,
        retries=retries,
        delivery=delivery,
        call=call,
        executor=Executor(worker="w1", pid=7) if delivery else None,
        outcome=Outcome(exception_type=f"{kind}Error", traceback=f"{place}") if dies else None,
    )

"""How events become rows: the delivery that a run shows, its attempts, and the status of its letters.

Pure, and indifferent to the order and the repetition of events. Knows neither the ORM nor Celery.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ..events import Call, Event, EventKind, Outcome
from ..states import FINISHED, DeadLetterReason, LetterStatus, QuietReason, TaskState
from .verdict import STATES, Delivery, Epoch, begin, observe, outweighs


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run with the delivery that it shows and its newest description."""

    task_id: str
    task_name: str = ""
    shown: Delivery = field(default_factory=Delivery)
    enqueued_at: datetime | None = None
    described: str = ""
    call: Call = field(default_factory=Call)
    newly_described: bool = False  # by these events: `call` brings the envelope to keep

    @property
    def holds_envelope(self) -> bool:
        """False once it has ended: what died has left its envelope to its dead letter."""
        return self.shown.state not in FINISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter as far as merging decides on it.

    `sent_generation` is the generation that its requeue sends. `elsewhere` where it was requeued under another id:
    then that run decides what becomes of it.
    """

    publication: str
    generation: int
    status: LetterStatus
    sent_generation: int | None = None
    elsewhere: bool = False

    @property
    def epoch(self) -> Epoch:
        return (self.publication, self.generation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What a run's rows have to become."""

    run: Run
    attempts: Sequence[Delivery]  # to write
    obsolete: Sequence[str]  # deliveries whose attempt the run's row replaces
    letters: Mapping[Epoch, LetterStatus]  # status by epoch, the letters to create included
    deaths: Mapping[Epoch, Delivery]  # the delivery that died, of each letter to write


def merge(run: Run, attempts: Mapping[str, Delivery], letters: Sequence[Letter], events: Sequence[Event]) -> Merged:
    """`attempts` are those that `events` mention and those that are settled; all of them where the run has letters or
    `falls_back`. `letters` are all of the run's."""
    known = _known(run, attempts, events)
    newest = max(run.shown.epoch, *((event.publication, event.generation) for event in events))
    shown = _choose(known.values(), newest)
    stored, obsolete = _attempts(run.shown, shown, known, attempts, events)
    deaths = _deaths(known, shown, events)
    return Merged(
        run=_described(run, shown, events),
        attempts=stored,
        obsolete=obsolete,
        letters=_statuses(known, shown, letters, deaths) if letters or deaths else {},
        deaths=deaths,
    )


def falls_back(run: Run, events: Iterable[Event]) -> bool:
    """True where another delivery may take the place of the one that the run shows, whatever it has come to: what was
    sent again has been refused, a success was none, or what is shown was seen earlier than the others after all."""
    return any(_takes_back(event, run.shown) for event in events)


def _takes_back(event: Event, shown: Delivery) -> bool:
    if event.outcome is not None and event.outcome.reason == QuietReason.DUPLICATE:
        return True
    if event.delivery != shown.delivery:
        return False
    was_none = STATES.get(event.kind) != TaskState.SUCCESS and outweighs(event.kind, shown.verdict)
    return (shown.state == TaskState.SUCCESS and was_none) or 0 < event.position < shown.seen


def _known(run: Run, attempts: Mapping[str, Delivery], events: Sequence[Event]) -> dict[str, Delivery]:
    known = dict(attempts)
    if run.shown.delivery:
        stored = attempts.get(run.shown.delivery)
        known[run.shown.delivery] = replace(run.shown, frames=stored.frames if stored else ())
        if run.shown.never_sent:
            known[run.shown.delivery] = replace(run.shown, publication="", generation=0)
    seen: dict[str, list[Event]] = {}
    for event in events:
        if event.delivery:
            if event.delivery not in known:
                known[event.delivery] = begin(event, known.values())
            seen.setdefault(event.delivery, []).append(event)
    for delivery, its_events in seen.items():
        known[delivery] = observe(known[delivery], *its_events)
    return known | _with_stored_success(known.values())


def _with_stored_success(known: Iterable[Delivery]) -> dict[str, Delivery]:
    """Those whose success was only found in the result backend, which knows no deliveries. Where another delivery of
    the epoch has told one, it is that one's, and the child of these was killed in something else."""
    told = {each.epoch for each in known if each.verdict in (EventKind.RETURNED, EventKind.SUCCEEDED)}
    return {
        each.delivery: replace(each, **_LOST if each.epoch in told else _OWN)
        for each in known
        if each.verdict == EventKind.SUCCESS_STORED
    }


_OWN: Mapping[str, Any] = {"state": TaskState.SUCCESS, "reason": ""}
_LOST: Mapping[str, Any] = {"state": TaskState.FAILURE, "reason": DeadLetterReason.WORKER_LOST}


def _choose(known: Iterable[Delivery], newest: Epoch) -> Delivery:
    """The delivery that a run shows: the first success of the newest epoch, else its newest delivery."""
    known = list(known)
    current = [delivery for delivery in known if delivery.epoch == newest and delivery.counts]
    if succeeded := [delivery for delivery in current if delivery.state == TaskState.SUCCESS]:
        return min(succeeded, key=_order)
    chosen = max(current, key=_order, default=Delivery(publication=newest[0], generation=newest[1]))
    given_up = next((delivery for delivery in known if delivery.never_sent), None)
    return replace(given_up, publication=newest[0], generation=newest[1]) if given_up and _is_idle(chosen) else chosen


def _is_idle(chosen: Delivery) -> bool:
    """True where nothing was ever sent, or what was sent has left its place to a canvas that has been given up."""
    return chosen == Delivery() or chosen.reason == QuietReason.REPLACED


def _order(delivery: Delivery) -> tuple[int, int, int, str]:
    return (delivery.nesting, delivery.retries, delivery.seen, delivery.delivery)


@dataclass(slots=True)
class _Description:
    """What a run says of itself beside its delivery, while events are told."""

    task_name: str
    enqueued_at: datetime | None
    described: str
    call: Call
    newly_described: bool = False

    def tell(self, event: Event) -> None:
        self.task_name = self.task_name or event.task_name
        if event.kind is EventKind.PUBLISHED and event.retries == 0:
            self.enqueued_at = max(self.enqueued_at or event.at, event.at)
        if event.kind is EventKind.UPSTREAM_FAILED:
            if event.call and not self.described:
                self.call = event.call  # until anybody who has sent it says more
        elif event.call:
            self._describe(event, event.call)

    def _describe(self, event: Event, call: Call) -> None:
        """Of one send, the message on the wire is right about everything but the arguments for display: only their
        publisher had the objects, and their names. The newest send describes the call."""
        send = f"{event.publication}/{event.generation:06}/{event.nesting:05}/{event.retries:06}/"
        teller = "publisher" if event.kind is EventKind.PUBLISHED else "wire"
        held, _, tellers = self.described.rpartition("/")
        if send > f"{held}/" or not self.described:
            self.call, self.described, self.task_name = call, send + teller, event.task_name
            self.newly_described = True
        elif send == f"{held}/" and teller not in tellers:
            wire, publisher = (call, self.call) if teller == "wire" else (self.call, call)
            if publisher.args is not None:
                wire = replace(wire, args=publisher.args, kwargs=publisher.kwargs)
            self.call, self.described = wire, f"{send}publisher+wire"
            self.newly_described = self.newly_described or teller == "wire"


def _described(run: Run, shown: Delivery, events: Sequence[Event]) -> Run:
    told = _Description(run.task_name, run.enqueued_at, run.described, run.call, run.newly_described)
    for event in events:
        told.tell(event)
    return Run(
        task_id=run.task_id,
        task_name=told.task_name,
        shown=shown,
        enqueued_at=told.enqueued_at,
        described=told.described,
        call=told.call,
        newly_described=told.newly_described,
    )


def _attempts(
    before: Delivery,
    shown: Delivery,
    known: Mapping[str, Delivery],
    stored: Mapping[str, Delivery],
    events: Sequence[Event],
) -> tuple[list[Delivery], list[str]]:
    """The attempts to write, and those that the run's row replaces."""
    touched = {event.delivery for event in events if event.delivery}
    touched |= {key for key, delivery in stored.items() if known[key].state != delivery.state or key == shown.delivery}
    if before.delivery and not before.needs_attempt and before.delivery != shown.delivery:
        touched.add(before.delivery)  # it stood in the run's row alone
    if shown.never_sent:
        touched.add(shown.delivery)  # and stands there alone from now on
    to_write, obsolete = [], []
    for delivery in (known[key] for key in sorted(touched)):
        if delivery.needs_attempt or delivery.delivery != shown.delivery:
            to_write.append(delivery)
        elif delivery.delivery in stored:
            obsolete.append(delivery.delivery)
    return to_write, obsolete


def _deaths(known: Mapping[str, Delivery], shown: Delivery, events: Sequence[Event]) -> dict[Epoch, Delivery]:
    """The newest dead delivery of each epoch in which `events` report a death that deserves a letter."""
    deaths: dict[Epoch, Delivery] = {}
    for event in events:
        delivery = known.get(event.delivery)
        if delivery and delivery.dead and delivery.verdict == event.kind and (event.outcome or Outcome()).dead_letter:
            newest = max(delivery, deaths.get(delivery.epoch, delivery), key=_order)
            deaths[delivery.epoch] = shown if shown.dead and shown.epoch == newest.epoch else newest
    return deaths


def statuses(run: Run, attempts: Mapping[str, Delivery], letters: Sequence[Letter]) -> dict[Epoch, LetterStatus]:
    """What the letters have come to by what is known now."""
    return _statuses(_known(run, attempts, ()), run.shown, letters, ())


def _statuses(
    known: Mapping[str, Delivery], shown: Delivery, letters: Sequence[Letter], deaths: Iterable[Epoch]
) -> dict[Epoch, LetterStatus]:
    """The status of each letter of the run, those of `deaths` included, given everything known of it."""
    by_epoch: dict[Epoch, Letter | None] = dict.fromkeys(deaths)
    by_epoch.update((letter.epoch, letter) for letter in letters)
    settled = _settled(known.values())
    return {epoch: _status(epoch, letter, shown, settled, by_epoch) for epoch, letter in by_epoch.items()}


def _status(
    epoch: Epoch, letter: Letter | None, shown: Delivery, settled: Iterable[Epoch], lettered: Iterable[Epoch]
) -> LetterStatus:
    if letter and (letter.elsewhere or letter.status == LetterStatus.DISCARDED):
        return letter.status
    if any(_follows(other, epoch) for other in settled) or (shown.epoch == epoch and _needs_nobody(shown)):
        return LetterStatus.RESOLVED
    if any(_follows(other, epoch) for other in set(lettered) - {epoch}):
        return LetterStatus.SUPERSEDED
    if shown.epoch != epoch and _follows(shown.epoch, epoch) and shown.state not in FINISHED:
        return LetterStatus.REQUEUED
    if letter and shown.publication > epoch[0]:
        return letter.status  # the id means another publish by now, which says nothing of this one
    if letter and letter.sent_generation is not None and (epoch[0], letter.sent_generation) > shown.epoch:
        return LetterStatus.REQUEUED  # sent, or about to be, and nothing has been heard of it
    return LetterStatus.OPEN


def _settled(known: Iterable[Delivery]) -> set[Epoch]:
    """Epochs with a success, or whose newest delivery ended as the task wanted."""
    newest: dict[Epoch, Delivery] = {}
    for delivery in sorted(known, key=_order):
        if delivery.counts:
            newest[delivery.epoch] = delivery
    ignored = {epoch for epoch, delivery in newest.items() if delivery.state == TaskState.IGNORED}
    return ignored | {delivery.epoch for delivery in known if delivery.state == TaskState.SUCCESS}


def _needs_nobody(shown: Delivery) -> bool:
    return shown.state in FINISHED and not shown.dead


def _follows(later: Epoch, epoch: Epoch) -> bool:
    return later[0] == epoch[0] and later[1] >= epoch[1]

"""The dead letters that follow from merged runs, and what the outbox has to tell of them."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from django.utils import timezone

from ..models import DeadLetter, OutboxEntry, OutboxKind, RunEnvelope, TaskRun
from ..states import FINISHED, SETTLED, DeadLetterReason, LetterStatus, TaskState
from . import bulk
from .merge import Letter, Merged, Run, statuses
from .rows import attempt_of, run_of, stored
from .verdict import Delivery, Epoch

DESCRIPTION_MAX_CHARS = 1000

Letters = Mapping[int, Mapping[Epoch, DeadLetter]]


def of_runs(runs: Collection[int]) -> Letters:
    """All letters of the runs with these primary keys, by run and epoch."""
    found: dict[int, dict[Epoch, DeadLetter]] = defaultdict(dict)
    for letter in DeadLetter.objects.filter(run__in=runs) if runs else ():
        found[letter.run_id][letter.publication, letter.generation] = letter
    return found


def current_status(letter: DeadLetter, run: TaskRun) -> LetterStatus:
    """What `letter` has come to by now, if nobody had decided on it. Under the lock of its run."""
    attempts = {row.delivery: attempt_of(row) for row in run.attempts.all()}
    others = [as_merged(row) for row in run.dead_letters.defer("envelope") if row.pk != letter.pk]
    return statuses(run_of(run), attempts, [*others, as_merged(letter)])[letter.publication, letter.generation]


def as_merged(letter: DeadLetter) -> Letter:
    return Letter(
        publication=letter.publication,
        generation=letter.generation,
        status=LetterStatus(letter.status),
        sent_generation=letter.sent_generation if letter.status == LetterStatus.REQUEUED else None,
        elsewhere=bool(letter.requeued_as),
    )


def write(merged: Mapping[int, Merged], stored: Letters, described: Collection[int]) -> None:
    """Writes the letters that are new or have changed, each with its envelope, and the notices they call for.

    `described` are the runs of which this batch brought the newest description, and with it their envelope.
    """
    changed: list[DeadLetter] = []
    notices: list[OutboxEntry] = []
    for pk, result in merged.items():
        for epoch, status in sorted(result.letters.items()):
            letter = stored.get(pk, {}).get(epoch) or _new(pk, result.run, epoch)
            if _update(letter, status, result, described):
                changed.append(letter)
                notices += _notices(letter, result.deaths.get(epoch))
    if changed:
        _write(changed, merged, described)
    notices += _settle_origins([result for result in merged.values() if result.run.call.requeued_from])
    OutboxEntry.objects.bulk_create(notices, ignore_conflicts=True)


def _new(pk: int, run: Run, epoch: Epoch) -> DeadLetter:
    return DeadLetter(
        run_id=pk,  # an object would ask the project's routers
        task_id=run.task_id,
        task_name=run.task_name,
        publication=epoch[0],
        generation=epoch[1],
        status="",
    )


def _update(letter: DeadLetter, status: LetterStatus, result: Merged, described: Collection[int]) -> bool:
    """True where the letter has to be written."""
    epoch = (letter.publication, letter.generation)
    died = result.deaths.get(epoch)
    if died:
        letter.reason = died.reason
        letter.exception_type = died.exception_type
        letter.description = _description(died)
        letter.died_at = stored(died.finished_at) or timezone.now()
        if died.parked is not None and letter.let_through_at is None:
            letter.parked = died.parked
    told = letter.parked and _was_revoked(result.run.shown, epoch)  # by Celery, to whoever waited
    letter.parked = letter.parked and not told
    redescribed = letter.run_id in described and epoch == result.run.shown.epoch
    changed = bool(died) or told or letter.status != status or redescribed
    letter.status = status
    return changed


def _was_revoked(shown: Delivery, epoch: Epoch) -> bool:
    """True where what was sent again after the death of this epoch is what the run shows, and was revoked."""
    later = shown.publication == epoch[0] and shown.generation > epoch[1]
    return later and shown.state == TaskState.REVOKED


def _description(died: Delivery) -> str:
    if not died.exception_type and not died.exception_message:
        return str(DeadLetterReason(died.reason).label)
    text = f"{died.exception_type}: {died.exception_message}".removeprefix(": ")
    return text if len(text) <= DESCRIPTION_MAX_CHARS else f"{text[: DESCRIPTION_MAX_CHARS - 1]}…"


def _notices(letter: DeadLetter, died: Delivery | None) -> list[OutboxEntry]:
    """What has to be told of a letter that has changed. The key of an entry keeps it from being told twice."""
    if letter.status == LetterStatus.RESOLVED and not _is_new(letter):
        return [_notice(OutboxKind.RESOLVED, letter)]
    if letter.status != LetterStatus.OPEN or not (died or _is_new(letter)):  # that it is open again is no death
        return []
    notices = [_notice(OutboxKind.DEAD_LETTERED, letter)]
    if died and died.dead_letter_queue:
        notices.append(_notice(OutboxKind.DEAD_LETTER_QUEUE, letter, queue=died.dead_letter_queue))
    return notices


def _notice(kind: OutboxKind, letter: DeadLetter, **facts: str) -> OutboxEntry:
    payload = {"run": letter.run_id, "publication": letter.publication, "generation": letter.generation, **facts}
    return OutboxEntry(
        kind=kind, key=f"{kind}:{letter.run_id}:{letter.publication}:{letter.generation}", payload=payload
    )


def _write(changed: list[DeadLetter], merged: Mapping[int, Merged], described: Collection[int]) -> None:
    stored = {row.run_id: row for row in RunEnvelope.objects.filter(run__in={letter.run_id for letter in changed})}
    for letter in changed:
        run = merged[letter.run_id].run
        if run.shown.epoch != (letter.publication, letter.generation) and not _is_new(letter):
            continue
        if letter.run_id in described:
            letter.envelope, letter.envelope_error = run.call.envelope, run.call.envelope_error
        elif letter.run_id in stored:
            kept = stored[letter.run_id]
            letter.envelope, letter.envelope_error = kept.envelope, kept.error
    _link(changed, merged)
    bulk.upsert(DeadLetter, changed, unique=["run", "publication", "generation"], update=_COLUMNS)


_COLUMNS = [
    "reason",
    "description",
    "exception_type",
    "status",
    "parked",
    "died_at",
    "previous",
    "envelope",
    "envelope_error",
]


def _link(changed: list[DeadLetter], merged: Mapping[int, Merged]) -> None:
    """Lets each new letter of a re-run point back to the letter that was requeued."""
    new = [letter for letter in changed if _is_new(letter)]
    rerun = {letter.run_id for letter in new if letter.generation > 0}
    moved = [letter.task_id for letter in new if merged[letter.run_id].run.call.requeued_from]
    earlier: dict[tuple[int, str], list[DeadLetter]] = defaultdict(list)
    for letter in DeadLetter.objects.filter(run__in=rerun).defer("envelope").order_by("generation"):
        earlier[letter.run_id, letter.publication].append(letter)
    sent = DeadLetter.objects.filter(requeued_as__in=moved).exclude(requeued_as="")  # as its partial index says
    origins = {letter.requeued_as: letter for letter in sent}
    for letter in new:
        before = [row for row in earlier[letter.run_id, letter.publication] if row.generation < letter.generation]
        origin = before[-1] if before else origins.get(letter.task_id)
        letter.previous_id = origin.pk if origin else None


def _is_new(letter: DeadLetter) -> bool:
    return letter._state.adding  # noqa: SLF001 Django documents `_state`


def _settle_origins(results: Iterable[Merged]) -> list[OutboxEntry]:
    """A letter that was requeued under a new id becomes what the new run has become; it is open again where that was
    revoked."""
    ended = [result.run for result in results if result.run.shown.state in FINISHED]
    if not ended:
        return []
    settled = {run.task_id for run in ended if run.shown.state in SETTLED}
    died = {run.task_id for run in ended if run.shown.dead}
    waiting = DeadLetter.objects.filter(status=LetterStatus.REQUEUED).exclude(requeued_as="")  # the index again
    healed = list(waiting.filter(requeued_as__in=settled).defer("envelope"))
    waiting.filter(pk__in=[letter.pk for letter in healed]).update(status=LetterStatus.RESOLVED)
    waiting.filter(requeued_as__in=died).update(status=LetterStatus.SUPERSEDED)
    revoked = {run.task_id for run in ended} - settled - died
    waiting.filter(requeued_as__in=revoked).update(status=LetterStatus.OPEN, requeued_as="")
    return [_notice(OutboxKind.RESOLVED, letter) for letter in healed]

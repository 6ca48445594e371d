"""Every task whose `delay()` returned is in exactly one accounted state. A publish that raised counts if it ran."""

from chaos.tables import FINISHED, Run, Tables
from chaos.verdict.finding import Finding
from chaos.verdict.record import Record

QUIET = {"", "replaced", "revoked", "upstream_failed", "duplicate"}
ENDED_WELL = ("SUCCESS", "IGNORED")
UNDER_WAY = "requeued"


def every_task_is_accounted_for(record: Record, tables: Tables) -> list[Finding]:
    ran = {line.task_id for line in record.starts.values()}
    sent = {line.task_id for line in record.puts}
    owed = record.called | ran | sent
    missing = [Finding(task_id, "no row tells of it") for task_id in sorted(owed - tables.runs.keys())]
    return missing + [
        Finding(task_id, trouble)
        for task_id, run in sorted(tables.runs.items())
        if (trouble := _trouble(run)) and (task_id in owed or task_id not in record.refused)
    ]


def _trouble(run: Run) -> str:
    """What keeps it from being accounted for; "" where it is."""
    shown = run.shown
    if shown.state not in FINISHED:
        return f"is still {shown.state} ({shown.verdict or 'nothing was heard of it'}, {shown.exception_message!r})"
    if shown.state in ENDED_WELL and shown.reason not in QUIET:
        return f"is {shown.state}, and yet has the reason {shown.reason!r}"
    if shown.state not in ENDED_WELL and not shown.reason:
        return f"is {shown.state}, and has no reason"
    return ""


def every_letter_is_where_its_run_is(record: Record, tables: Tables) -> list[Finding]:
    """What died has one letter, what has succeeded since has none that waits, and none is under way for ever."""
    return [
        Finding(task_id, trouble)
        for task_id, run in sorted(tables.runs.items())
        for trouble in (*_letters_in_excess(run), *_letters_that_lie(run))
    ]


def every_letter_has_its_message(record: Record, tables: Tables) -> list[Finding]:
    """Or nobody could put it back."""
    return [
        Finding(task_id, f"letter {letter.pk} of generation {letter.generation} ({letter.reason}) has no message")
        for task_id, run in sorted(tables.runs.items())
        for letter in run.letters
        if letter.status == "open" and not letter.has_message
    ]


def _letters_in_excess(run: Run) -> list[str]:
    epochs = [letter.epoch for letter in run.letters]
    return [f"has {epochs.count(epoch)} letters of {epoch}" for epoch in sorted(set(epochs)) if epochs.count(epoch) > 1]


def _letters_that_lie(run: Run) -> list[str]:
    shown = run.shown
    told = []
    dead = shown.state in FINISHED and shown.reason not in QUIET
    if dead and shown.epoch not in {letter.epoch for letter in run.letters}:
        told.append(f"died of {shown.reason} in generation {shown.generation}, and has no letter of it")
    for letter in run.letters:
        what = f"letter {letter.pk} of generation {letter.generation}"
        if letter.status == UNDER_WAY:
            told.append(f"{what} is still {UNDER_WAY}, generation {letter.sent_generation}")
        elif letter.status == "open" and shown.state == "SUCCESS" and letter.epoch <= shown.epoch:
            if letter.publication == shown.publication:
                told.append(f"{what} is open, and the run has succeeded")
        elif letter.status == "open" and shown.epoch > letter.epoch and letter.publication == shown.publication:
            told.append(f"{what} is open, and generation {shown.generation} has come to {shown.state}")
    return told

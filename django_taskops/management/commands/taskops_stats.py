"""Says how the recorder is doing, and how many runs and letters there are, for people and for monitoring."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, no_translations
from django.db import Error
from django.db.models import Q

from ...models import DeadLetter, Recorder, TaskRun
from ...projection.status import CAP, Counted, SourceStatus, Status, counted, read_status
from ...states import LetterStatus, TaskState

BLIND = 1


class Command(BaseCommand):
    help = (
        "Shows the journal, what waits in it, what was dropped or quarantined, and counts of runs and open dead "
        f"letters, which stop at {CAP}. Changes nothing. Exit code 0: what happens is seen. 1: the recorder is blind, "
        "and the output says why."
    )
    requires_system_checks = []  # it has to answer above all where something is wrong

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="as one JSON object")

    @no_translations
    def handle(self, **options: Any) -> None:
        status = read_status()
        try:
            runs, letters = count_runs(), counted(DeadLetter.objects.filter(status=LetterStatus.OPEN))
        except Error:  # why, is among the reasons for which the recorder is blind
            runs, letters = {}, None
        if options["json"]:
            self.stdout.write(json.dumps(as_json(status, runs, letters), indent=2))
        else:
            self.stdout.writelines(f"{line}\n" for line in as_text(status, runs, letters))
        if status.blind:
            raise SystemExit(BLIND)


def count_runs() -> dict[str, Counted]:
    """By state. All but the successes are in an index whose condition has to be named."""
    not_success = ~Q(state=TaskState.SUCCESS)
    return {
        state: counted(TaskRun.objects.filter(Q(state=state) & (Q() if state == TaskState.SUCCESS else not_success)))
        for state in TaskState.values
    }


def as_json(status: Status, runs: dict[str, Counted], letters: Counted | None) -> dict[str, Any]:
    return {
        "seeing": not status.blind,
        "blind": [{"code": each.code, "source": each.source, "detail": each.sentence} for each in status.blind],
        "journal": {"kind": status.journal, "address": status.address},
        "sources": [_source(source) for source in status.sources],
        "recorders": [_recorder(row) for row in status.recorders],
        "quarantined": status.quarantined.number,
        "runs": {state: count.number for state, count in runs.items()},
        "open_letters": letters.number if letters else None,
        "counted_up_to": CAP,
    }


def _source(source: SourceStatus) -> dict[str, Any]:
    backlog = source.backlog
    if backlog is None:
        return {"name": source.name, "reachable": False, "error": source.error}
    return {
        "name": source.name,
        "reachable": True,
        "events": backlog.entries,
        "bytes": backlog.size,
        "limit_bytes": backlog.limit,
        "lag_seconds": source.lag_seconds,
        "dropped": dict(backlog.dropped),
        "holder": backlog.holder,
        "refused": backlog.refused,
    }


def _recorder(row: Recorder) -> dict[str, Any]:
    names = ("name", "holder", "applied", "quarantined", "dropped", "lag_seconds", "spool_files", "spool_bytes")
    return {name: getattr(row, name) for name in names} | {"seen_at": row.seen_at.isoformat()}


def as_text(status: Status, runs: dict[str, Counted], letters: Counted | None) -> Iterator[str]:
    yield f"The recorder is {'blind' if status.blind else 'seeing'}."
    yield from (f"  {each.sentence}" for each in status.blind)
    yield f"Journal: {' '.join(filter(None, (status.journal or 'none that can be used', status.address)))}"
    yield from map(_source_line, status.sources)
    yield from (
        f"  {row.name}: {row.applied} applied, {row.quarantined} quarantined, {row.dropped} dropped, drained by "
        f"{row.holder or 'nobody'}, heard of at {row.seen_at:%Y-%m-%d %H:%M:%S %Z}"
        for row in status.recorders
    )
    yield f"Quarantine: {_shown(status.quarantined)}"
    if letters is not None:
        yield f"Open dead letters: {_shown(letters)}"
        present = (f"{state} {_shown(count)}" for state, count in runs.items() if count.number)
        yield f"Runs: {', '.join(present) or 'none'}"


def _source_line(source: SourceStatus) -> str:
    backlog = source.backlog
    if backlog is None:
        return f"  {source.name or 'settings'}: {source.error}"
    lag = "no lag" if source.lag_seconds is None else f"lag {source.lag_seconds:.1f} s"
    return (
        f"  {source.name}: {backlog.entries} events wait, {backlog.size} of {backlog.limit} bytes, {lag}, "
        f"{sum(backlog.dropped.values())} dropped, drained by {backlog.holder or 'nobody'}"
    )


def _shown(count: Counted) -> str:
    return f"{count.number}+" if count.capped else str(count.number)

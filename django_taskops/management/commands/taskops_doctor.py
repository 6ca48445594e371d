"""Says why a task that was sent does not run: what is wrong with the system, or where one run is."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, no_translations
from django.db import Error

from ...capture.text import storable_id
from ...models import TaskRun
from ...recovery.doctor import examine, examine_run
from ...recovery.findings import Finding, Level

EXIT_CODES = {Level.GOOD: 0, Level.WARNING: 1, Level.BAD: 2}


class Command(BaseCommand):
    help = (
        "Looks at the broker, the journal, the workers and the queues, and says what is wrong and what to do; with a "
        "task id, where that run is and what it waits for. Changes nothing. Exit code 0: nothing is wrong. 1: there "
        "are warnings. 2: something is bad, or the task id is unknown."
    )
    requires_system_checks = []  # it has to answer above all where something is wrong

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("task_id", nargs="?", help="of one run; without it, the whole system is looked at")
        parser.add_argument("--json", action="store_true", help="as one JSON object")

    @no_translations
    def handle(self, **options: Any) -> None:
        task_id = options["task_id"]
        findings = examine() if task_id is None else examine_run(_run(task_id))
        worst = max((finding.level for finding in findings), key=lambda level: EXIT_CODES[level], default=Level.GOOD)
        if options["json"]:
            self.stdout.write(json.dumps(as_json(findings, worst), indent=2))
        else:
            self.stdout.writelines(f"{line}\n" for line in as_text(findings))
        if worst is not Level.GOOD:
            raise SystemExit(EXIT_CODES[worst])


def as_json(findings: Sequence[Finding], worst: Level) -> dict[str, Any]:
    return {
        "level": worst,
        "findings": [
            {"code": each.code, "level": each.level, "sentence": each.sentence, "advice": each.advice}
            for each in findings
        ],
    }


def as_text(findings: Sequence[Finding]) -> Iterator[str]:
    for each in findings:
        yield f"{each.level}: {each.sentence}"
        if each.advice:
            yield f"    {each.advice}"


def _run(task_id: str) -> TaskRun:
    """Raises CommandError where there is none, or the tables can't be read."""
    try:
        found: TaskRun | None = TaskRun.objects.filter(task_id=storable_id(task_id)).first()
    except Error as error:
        raise CommandError(
            f"The tables can't be read ({type(error).__name__}): run taskops_doctor without a task id.", returncode=2
        ) from error
    if found is None:
        raise CommandError(
            f"No run has the task id {task_id!r}: it was never published, is not tracked (TRACK, IGNORE), was "
            "pruned, or its events still wait in the journal (taskops_stats).",
            returncode=2,
        )
    return found

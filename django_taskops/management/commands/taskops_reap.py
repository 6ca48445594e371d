"""Ends what nobody else will end. Workers do it by themselves: this is for hosts without any, and for cron."""

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ...recovery import reap
from ...states import REASON_CHOICES

NOBODY_JUDGED = 1


class Command(BaseCommand):
    help = (
        "Watches the workers for WORKER_TIMEOUT seconds, then ends the runs of those that are gone, and those whose "
        "message or end is lost. A worker does this by itself: then there is nothing to do by hand. Exit status 1 "
        "where nobody could be judged."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--timeout", type=float, help="give up after this many seconds")
        parser.add_argument("--dry-run", action="store_true", help="say what would be ended, and end nothing")
        parser.add_argument("--json", action="store_true", help="say it as JSON")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["timeout"] is not None and options["timeout"] <= 0:
            raise CommandError(f"--timeout: expected seconds above 0, got {options['timeout']:g}")
        done = reap(timeout=options["timeout"], dry_run=options["dry_run"])
        if options["json"]:
            self.stdout.write(json.dumps({"judged": done.judged, "why": done.why, "runs": dict(done.runs)}))
        else:
            self._tell(done.why, done.runs, "would end" if options["dry_run"] else "ended")
        if not done.judged and not done.busy:
            sys.exit(NOBODY_JUDGED)

    def _tell(self, why: str, runs: Any, done: str) -> None:
        if why:
            self.stdout.write(why)
        for reason, count in sorted(runs.items()):
            self.stdout.write(f"{done}: {count} ({_WORDS.get(reason, reason)})")
        if not runs and not why:
            self.stdout.write("Nothing to end.")


_WORDS = {**dict(REASON_CHOICES), "redelivery": "the broker delivers it again"}

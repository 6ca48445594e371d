"""Deletes what RETENTION does not keep. The housekeeper of a worker does it by itself: this is for one's hands."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, no_translations

from ...conf import conf
from ...recovery.retention import Pruned, prune

WORDS = {
    "success": "runs that succeeded or were ignored",
    "sampled": "successes that KEEP_SUCCESS does not keep",
    "failure": "runs that ended otherwise",
    "dead_letter": "dead letters that nobody waits for",
    "outbox": "outbox entries that were carried out",
    "worker": "workers that were not heard of for a week",
    "chord": "chords of a month ago, of which no member is dead",
}


class Command(BaseCommand):
    help = (
        "Deletes the runs and dead letters that are older than RETENTION says, the successes that KEEP_SUCCESS does "
        "not keep, and old rows of the app's own. "
        "In short transactions; open and requeued dead letters keep their runs."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="count what would be deleted, and delete nothing")
        parser.add_argument("--json", action="store_true", help="as one JSON object")

    @no_translations
    def handle(self, **options: Any) -> None:
        dry_run = options["dry_run"]
        try:
            pruned = prune(dry_run=dry_run)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps(as_json(pruned, dry_run=dry_run), indent=2))
        else:
            self.stdout.writelines(f"{line}\n" for line in as_text(pruned, dry_run=dry_run))


def as_json(pruned: Pruned, *, dry_run: bool) -> dict[str, Any]:
    counts = {each.name: getattr(pruned, each.name) for each in fields(pruned)}
    return {"dry_run": dry_run, "retention": dict(conf.retention()), **counts}


def as_text(pruned: Pruned, *, dry_run: bool) -> Iterator[str]:
    kept = [kind for kind, days in conf.retention().items() if days is None]
    if len(kept) == len(conf.retention()):
        yield "RETENTION keeps all runs and dead letters for ever."
    elif kept:
        yield f"RETENTION keeps for ever: {', '.join(kept)}."
    yield "Would be deleted:" if dry_run else "Deleted:"
    yield from (f"  {getattr(pruned, kind)} {words}" for kind, words in WORDS.items())

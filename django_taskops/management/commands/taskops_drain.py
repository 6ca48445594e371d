"""Applies what waits in the journal. A worker does it by itself: this is for hosts without one, and for one's hands."""

import gc
import json
import math
import os
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ... import journal
from ...projection.service import REFUSED, drain_once, serve
from ...projection.status import SourceStatus, read_status

ONCE_SECONDS = 24 * 3600.0
UNREACHABLE = 1
IDLE_SECONDS = 60.0  # then the worker that started us does without


class Command(BaseCommand):
    help = (
        "Applies the events that wait in the journal to the database, until it is stopped by SIGTERM or Ctrl-C. "
        "Several may run: one works, the others stand by. Exit code 1: a dry run could not reach a journal."
    )
    requires_system_checks = []  # a check of the project's must not keep events from being written

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="drain until nothing waits, then exit")
        parser.add_argument("--dry-run", action="store_true", help="say what waits, and apply nothing")
        parser.add_argument("--json", action="store_true", help="with --once or --dry-run: say it as JSON")
        parser.add_argument(
            "--adopt", action="store_true", help="take over a journal that another database has drained until now"
        )
        parser.add_argument("--app", default="", help="the Celery app as module:name; by default the project's own")
        parser.add_argument("--parent", type=int, default=0, help="exit when this process is no longer our parent")

    def handle(self, *_args: Any, **options: Any) -> None:
        if options["json"] and not (options["once"] or options["dry_run"]):
            raise CommandError("--json: expected --once or --dry-run beside it; a drain that goes on has no result")
        if options["app"]:
            _use_app(options["app"])
        if journal.kind() == "direct":
            raise CommandError("the direct journal keeps nothing to drain: TASKOPS['JOURNAL'] or the broker says so")
        if options["dry_run"]:
            self._tell_backlog(read_status().sources, as_json=options["json"])
            return
        sources = journal.sources(adopt=options["adopt"])
        _collect_rarely()
        if options["once"]:
            self._tell(drain_once(sources, ONCE_SECONDS), as_json=options["json"])
        else:
            serve(sources, _until(options["parent"]), IDLE_SECONDS if options["parent"] else math.inf)
            if any(getattr(source, "refused", "") for source in sources):
                sys.exit(REFUSED)

    def _tell(self, done: Any, *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps([{name: getattr(each, name) for name in _DONE} for each in done]))
            return
        for each in done:
            self.stdout.write(f"{each.source}: {each.applied} applied, {each.quarantined} quarantined")
        if not done:
            self.stdout.write("Nothing to do: another process drains, or this database may not (see taskops_stats).")

    def _tell_backlog(self, sources: Sequence[SourceStatus], *, as_json: bool) -> None:
        waiting = {each.name: None if each.backlog is None else each.backlog.entries for each in sources}
        if as_json:
            found = [{"source": each.name, "waiting": waiting[each.name], "error": each.error} for each in sources]
            self.stdout.write(json.dumps(found))
        else:
            for each in sources:
                self.stdout.write(f"{each.name}: {each.error or f'{waiting[each.name]} would be applied'}")
        if None in waiting.values():
            sys.exit(UNREACHABLE)


_DONE = ("source", "applied", "quarantined")


def _collect_rarely() -> None:
    """A batch makes and forgets some 100,000 objects, none of them in a cycle: looking for cycles takes a third of the
    time. What has been imported is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def _use_app(path: str) -> None:
    module, _, name = path.partition(":")
    app = getattr(import_module(module), name or "app")
    app.set_current()
    app.set_default()


def _until(parent: int) -> Callable[[], bool]:
    """True once a signal has come, or the worker that started this process is gone."""
    stopped = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_caught: stopped.set())
    return lambda: stopped.is_set() or bool(parent and os.getppid() != parent)

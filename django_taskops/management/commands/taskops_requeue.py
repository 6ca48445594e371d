"""Puts dead letters back from the command line: named, found by filters, or read from a dead-letter queue."""

import json
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from getpass import getuser
from typing import Any

from django.core.management.base import BaseCommand, CommandError, no_translations
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from ...exceptions import AlreadyTaken, NotRequeueable
from ...recovery import from_queue
from ...recovery.decide import Decided, person
from ...recovery.intents import Order
from ...recovery.message import Changes
from ...recovery.requeue import requeue_each
from ...recovery.selection import ALREADY_TAKEN, Filters, Preview, newest_of, pinned, preview
from ...recovery.sending import Outcome
from ...states import DeadLetterReason

SOME_SKIPPED = 3
NONE_SENT = 4
UNKNOWN = "unknown"
EXAMPLES = 3  # of each reason, that are kept and told


@dataclass(slots=True)
class Tally:
    """What has become of the letters so far."""

    total: int
    sent: int = 0
    not_confirmed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def count(self, subject: str, outcome: Outcome) -> None:
        if isinstance(outcome, NotRequeueable) and outcome.code == "not_confirmed":
            self.not_confirmed += 1
        elif isinstance(outcome, (NotRequeueable, AlreadyTaken)):
            code = outcome.code if isinstance(outcome, NotRequeueable) else ALREADY_TAKEN
            self.skip(code, f"{subject}: {getattr(outcome, 'detail', outcome)}")
        else:
            self.sent += 1

    def skip(self, code: str, sentence: str) -> None:
        self.skipped[code] += 1
        told = self.examples.setdefault(code, [])
        if len(told) < EXAMPLES:
            told.append(sentence)

    @property
    def status(self) -> int:
        if not self.sent + self.not_confirmed:
            return NONE_SENT
        return SOME_SKIPPED if self.skipped or self.not_confirmed else 0

    def as_json(self) -> dict[str, Any]:
        return {
            "dry_run": False,
            "matching": self.total,
            "sent": self.sent,
            "not_confirmed": self.not_confirmed,
            "skipped": dict(self.skipped),
            "examples": self.examples,
        }


class Command(BaseCommand):
    help = (
        "Puts dead letters back: those of the tasks named, the open ones that filters find, or the messages of a "
        "dead-letter queue. Exit code 0: all were sent. 3: some were skipped, or are not confirmed. 4: none was sent."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("task_ids", nargs="*", metavar="ID", help="task ids")
        parser.add_argument("--task", default="", help='open letters of this task; "*" stands for anything')
        parser.add_argument("--reason", default="", choices=["", *DeadLetterReason.values], metavar="REASON")
        parser.add_argument("--since", help="died then or later: 2026-03-01T04:00, or how long ago: 2h, 3d")
        parser.add_argument("--until", help="died before that, written the same way")
        parser.add_argument("--limit", type=int, help="at most so many, the oldest first")
        parser.add_argument("--from-queue", metavar="QUEUE", help="the messages of this queue, instead of letters")
        parser.add_argument("--attempts", default="fresh", help="fresh (default), once, or a number of starts")
        parser.add_argument("--force", action="store_true", help="also what is refused as a matter of judgement")
        parser.add_argument("--why", default="", metavar="TEXT", help="the reason, for the audit trail")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")
        parser.add_argument("--json", action="store_true", help="as one JSON object; asks nothing")

    @no_translations
    def handle(self, **options: Any) -> None:
        order, filters = _order(options), _filters(options)
        if options["from_queue"]:
            if options["task_ids"] or filters:
                raise CommandError(
                    "--from-queue: expected no task ids beside it, and none of --task, --reason, --since and --until: "
                    "it puts back whatever lies in the queue"
                )
            self._put_back(order, options)
            return
        letters, unknown = _letters(filters, options)
        if options["dry_run"] or not (options["yes"] or options["json"]):
            found = preview(letters, force=order.force)
            self._tell_preview(found, unknown, options)
            if options["dry_run"]:
                sys.exit(_preview_status(found, unknown))
            self._ask(found.rerunnable)
        tally = Tally(total=len(letters) + len(unknown))
        for task_id in unknown:
            tally.skip(UNKNOWN, f"{task_id}: no dead letter has this task id")
        self._run(((str(pk), outcome) for pk, outcome in requeue_each(letters, order)), tally, options)

    def _put_back(self, order: Order, options: dict[str, Any]) -> None:
        queue, limit = options["from_queue"], options["limit"]
        try:
            found = from_queue.look_into(queue, limit=limit)
        except Exception as error:  # whatever the broker's client raises
            raise CommandError(f"queue {queue!r} can't be read: {error}") from error
        if options["dry_run"] or not (options["yes"] or options["json"]):
            letters = [letter for _task_id, letter in found if letter is not None]
            seen = preview(letters, force=order.force)
            self._tell_preview(_with_foreign(seen, len(found) - len(letters)), [], options)
            if options["dry_run"]:
                sys.exit(_preview_status(seen, []) if letters or not found else 0)
            self._ask(len(found) - sum(seen.refused.values()))
        self._run(from_queue.put_back(queue, order, limit=limit), Tally(total=len(found)), options)

    def _run(self, outcomes: Iterable[tuple[str, Outcome]], tally: Tally, options: dict[str, Any]) -> None:
        """Ends the process with the exit code."""
        for done, (subject, outcome) in enumerate(outcomes, start=1):
            tally.count(subject, outcome)
            self._show_progress(done, tally.total)
        if options["json"]:
            self.stdout.write(json.dumps(tally.as_json(), indent=2))
        else:
            self.stdout.writelines(f"{line}\n" for line in _as_text(tally))
        if tally.status:
            sys.exit(tally.status)

    def _show_progress(self, done: int, total: int) -> None:
        if self.stderr.isatty() and (done % 100 == 0 or done == total):
            self.stderr.write(f"\r{done:,} of {total:,}", ending="\n" if done == total else "")
            self.stderr.flush()

    def _tell_preview(self, found: Preview, unknown: list[str], options: dict[str, Any]) -> None:
        if options["json"]:
            skipped = {**found.refused, **({UNKNOWN: len(unknown)} if unknown else {})}
            matching = found.matching + len(unknown)
            told = {"dry_run": True, "matching": matching, "rerunnable": found.rerunnable, "skipped": skipped}
            told |= {"examples": dict(found.examples), "outlook": list(found.outlook)}
            self.stdout.write(json.dumps(told, indent=2))
            return
        self.stdout.write(f"{found.matching:,} matching, {found.rerunnable:,} can be run again.")
        for sentence in found.outlook:
            self.stdout.write(f"  {sentence}")
        for code, count in found.refused.items():
            self.stdout.write(f"  {count:,} will be skipped ({code}): {found.examples[code]}")
        if unknown:
            self.stdout.write(f"  {len(unknown):,} will be skipped ({UNKNOWN}): no dead letter has the id {unknown[0]}")

    def _ask(self, count: int) -> None:
        if not count:
            self.stdout.write("Nothing is sent.")
            sys.exit(NONE_SENT)
        if not sys.stdin.isatty():
            raise CommandError("expected --yes where nobody can be asked, got neither that nor a terminal")
        if input(f"Send {count:,} again? What they had done before they died is done again. [y/N] ").lower() != "y":
            raise CommandError("Nothing was sent.")


def _order(options: dict[str, Any]) -> Order:
    given = options["attempts"]
    try:
        changes = Changes.checked(attempts=int(given) if given.isdecimal() else given)
    except NotRequeueable as error:
        raise CommandError(error.detail) from error
    by = person(f"{getuser()} (taskops_requeue)")
    return Order(changes=changes, decided=Decided(by=by, why=options["why"]), force=options["force"])


def _filters(options: dict[str, Any]) -> Filters:
    if options["limit"] is not None and options["limit"] < 1:
        raise CommandError(f"--limit: expected a count above 0, got {options['limit']}")
    return Filters(
        task=options["task"],
        reason=options["reason"],
        since=_instant("--since", options["since"]),
        until=_instant("--until", options["until"]),
    )


def _letters(filters: Filters, options: dict[str, Any]) -> tuple[list[int], list[str]]:
    """The primary keys that are decided on from here on, and the task ids that have no letter."""
    if bool(options["task_ids"]) == bool(filters):
        got = "both" if filters else "neither"
        raise CommandError(f"expected task ids, or some of --task, --reason, --since and --until; got {got}")
    if filters:
        return pinned(filters, options["limit"]), []
    letters, unknown = newest_of(options["task_ids"])
    return letters[: options["limit"]], unknown


def _instant(option: str, given: str | None) -> datetime | None:
    if given is None:
        return None
    if (ago := _ago(given)) is not None:
        return timezone.now() - ago
    try:
        at = parse_datetime(given) or parse_datetime(f"{given}T00:00")
    except ValueError:
        at = None
    if at is None:
        raise CommandError(f"{option}: expected an instant such as 2026-03-01T04:00, or 30m, 2h, 3d ago; got {given!r}")
    return timezone.make_aware(at) if timezone.is_naive(at) else at


def _ago(given: str) -> timedelta | None:
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    number, unit = given[:-1], given[-1:]
    if unit in units and number.isdecimal() and len(number) < 7:
        return timedelta(**{units[unit]: int(number)})
    return None


def _preview_status(found: Preview, unknown: list[str]) -> int:
    if not found.rerunnable:
        return NONE_SENT
    return SOME_SKIPPED if found.refused or unknown else 0


def _with_foreign(found: Preview, foreign: int) -> Preview:
    return Preview(matching=found.matching + foreign, refused=found.refused, examples=found.examples)


def _as_text(tally: Tally) -> Iterator[str]:
    yield f"{tally.sent:,} of {tally.total:,} sent."
    if tally.not_confirmed:
        yield f"  {tally.not_confirmed:,} not confirmed: unless heard of, they are sent once more, and start once"
    for code, count in tally.skipped.most_common():
        yield f"  {count:,} skipped ({code})"
        yield from (f"    {sentence}" for sentence in tally.examples[code])

"""One run: publishes and kills for a while, lets everything come to rest, and judges."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from django.db import Error, connection

from chaos import ledger, tables
from chaos.faults import KILLS, Kind, Scenario, plan
from chaos.fleet import Fleet
from chaos.killer import Killer
from chaos.ledger import Line, What
from chaos.stage import Stage, set_up
from chaos.verdict import judge
from chaos.verdict.costs import Cost, cost
from chaos.verdict.finding import Finding
from chaos.verdict.record import record

POLL_SECONDS = 0.1
WORKERS = 4
LONGEST_REST_SECONDS = 120.0
QUIET_LOOKS = 3  # with nothing unfinished, until it is believed
SECONDS_BETWEEN_LOOKS = 1.0
STOP_SECONDS = 10.0
MANY = 100_000
HOOK_FAILED = re.compile(r"django-taskops: (\S+) failed; the task goes on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`rate` in calls a second; `tasks` is where the publisher stops, `least_kills` of each kind are demanded."""

    seed: str
    seconds: float
    scenario: Scenario = Scenario.A
    rate: float = 15.0
    tasks: int = MANY
    least_kills: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    options: Options
    findings: dict[str, list[Finding]]
    done: dict[Kind, int]
    counts: dict[str, int]
    cost: Cost
    seconds_of_rest: float
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not any(self.findings.values()) and not self.too_few

    @property
    def too_few(self) -> list[str]:
        """The kinds of kills that there were not enough of."""
        return [kind for kind in KILLS if self.done.get(kind, 0) < self.options.least_kills]


def run(options: Options, folder: Path) -> Outcome:
    with set_up(folder) as stage:
        ledger.append(Line(what=What.CLOCK, detail={"wall": time.time()}))
        fleet = Fleet(stage, WORKERS)
        killer = Killer(stage, fleet, plan(options.seed, options.seconds, options.scenario, _worker_timeout()))
        helpers = _start_helpers(stage, options)
        _tend_until(lambda: len(fleet.ready()) == WORKERS and stage.has_called(), fleet, killer)
        killer.begin()
        _tend_until(lambda: killer.idle, fleet, killer)
        for helper in helpers:
            helper.terminate()
        began = time.monotonic()
        rests = _rest(fleet, killer)
        rested = time.monotonic() - began
        seen = tables.read()
        notes = [*_notes(stage.ledger), *([] if rests else _restless(fleet))]
        (folder / "tables.json").write_text(json.dumps(asdict(seen), default=str, indent=1))
        fleet.stop(STOP_SECONDS)
        _tell_recorders(folder)
        known = record(ledger.read(stage.ledger), _failed_hooks(folder))
        return Outcome(
            options=options,
            findings=judge(known, seen, options.scenario),
            done=dict(killer.done),
            counts=_counts(known, seen),
            cost=cost(known),
            seconds_of_rest=rested,
            notes=notes,
        )


def _worker_timeout() -> float:
    from django_taskops.conf import conf

    return float(conf.WORKER_TIMEOUT)


def _start_helpers(stage: Stage, options: Options) -> list[Any]:
    publisher = ["-m", "chaos.publisher", options.seed, str(options.rate), str(options.tasks)]
    return [
        stage.start("publisher.log", *publisher, proxied=True),
        stage.start("requeuer-1.log", "-m", "chaos.requeuer", options.seed, "first", proxied=False),
        stage.start("requeuer-2.log", "-m", "chaos.requeuer", options.seed, "second", proxied=True),
    ]


def _tend_until(over: Callable[[], bool], fleet: Fleet, killer: Killer) -> None:
    while not over():
        fleet.tend()
        killer.tend()
        time.sleep(POLL_SECONDS)


def _rest(fleet: Fleet, killer: Killer) -> bool:
    """Until everything has come to its end; False where it will not any more."""
    deadline = time.monotonic() + LONGEST_REST_SECONDS
    quiet, look_at = 0, 0.0

    def at_rest() -> bool:
        nonlocal quiet, look_at
        if time.monotonic() < look_at:
            return False
        look_at = time.monotonic() + SECONDS_BETWEEN_LOOKS
        quiet = quiet + 1 if _is_quiet() else 0
        return quiet >= QUIET_LOOKS or time.monotonic() > deadline

    _tend_until(at_rest, fleet, killer)
    return quiet >= QUIET_LOOKS


def _is_quiet() -> bool:
    try:
        return not any(_under_way().values())
    except Error:
        connection.close()
        return False


def _restless(fleet: Fleet) -> list[str]:
    """What has not come to rest; then the logs of the workers say where each stands."""
    notes = [f"at the end there is still {name}: {what}" for name, what in _under_way().items() if what]
    for worker in fleet.workers if notes else ():
        os.kill(worker.pid, signal.SIGUSR2)
    return notes


def _under_way() -> dict[str, object]:
    """What may still change something."""
    import redis
    from django.conf import settings

    from django_taskops import journal

    queue: str = getattr(settings, "CELERY_TASK_DEFAULT_QUEUE")  # noqa: B009 not in the stubs' settings
    with redis.Redis.from_url(settings.CELERY_BROKER_URL) as client:
        waiting = {
            "a message": client.llen(queue),
            "a message that is not acknowledged": client.hkeys("unacked"),
        }
    backlog = {source.name: source.backlog().entries for source in journal.sources()}
    return {
        **waiting,
        "an event in the journal": {name: entries for name, entries in backlog.items() if entries},
        "an unfinished run or letter": tables.unfinished(),
        "an interrupted requeue": tables.interrupted(),
    }


def _tell_recorders(folder: Path) -> None:
    from django_taskops.models import OutboxEntry, Recorder, WorkerBeat

    rows = [vars(row) for model in (Recorder, WorkerBeat, OutboxEntry) for row in model.objects.all()]
    (folder / "recorders.txt").write_text("\n".join(map(str, rows)))


def _failed_hooks(folder: Path) -> list[str]:
    return [
        f"{log.name}: {found.group(0)}"
        for log in sorted(folder.glob("*.log"))
        for found in HOOK_FAILED.finditer(log.read_text(errors="replace"))
    ]


def _counts(known: Any, seen: Any) -> dict[str, int]:
    shown = [run.shown for run in seen.runs.values()]
    return {
        "called": len(known.called),
        "refused": len(known.refused),
        "runs": len(seen.runs),
        "succeeded": sum(each.state == "SUCCESS" for each in shown),
        "letters": sum(len(run.letters) for run in seen.runs.values()),
        "requeued": sum(line.detail["action"] == "requeue" for line in known.decided),
        "reaped": sum(entry.action == "reap" for entry in seen.audit),
        "starts": len(known.starts),
        "fell with Redis": sum(map(known.fell_with_redis, [*known.starts.values(), *known.ends.values()])),
        "redelivered": sum(line.redelivered for line in known.starts.values()),
    }


def _notes(path: Path) -> list[str]:
    """What is no finding and worth knowing: workers that ended by themselves."""
    lines = list(ledger.read(path))
    ended = [line.detail for line in lines if line.what is What.GONE]
    asked = {line.detail.get("main") for line in lines if line.what is What.FAULT}
    return [f"worker {each['main']} ended by itself with {each['code']}" for each in ended if each["main"] not in asked]

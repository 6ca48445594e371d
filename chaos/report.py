"""What a run came to, for people: printed, and one line of JSON for each run."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from chaos.driver import Outcome

SHOWN = 10


def lines(outcome: Outcome) -> Iterator[str]:
    options, cost = outcome.options, outcome.cost
    yield f"seed {options.seed}, scenario {options.scenario}, {options.seconds:g} s"
    yield f"  at rest {outcome.seconds_of_rest:.0f} s later"
    yield f"  {', '.join(f'{value} {name}' for name, value in outcome.counts.items())}"
    yield f"  {', '.join(f'{kind}: {count}' for kind, count in sorted(outcome.done.items()))}"
    executions = f"{cost.executions} executions, {cost.stopped} of them frozen"
    yield f"  in the app's code, {executions}: median {cost.median:.2f} ms"
    for name, p99, longest in (
        ("without the time in which others had the processor", cost.p99, cost.longest),
        ("with it", cost.wall_p99, cost.wall_longest),
        ("at work itself", cost.cpu_p99, cost.cpu_longest),
    ):
        yield f"    {name}: p99 {p99:.2f} ms, longest {longest:.1f} ms"
    yield from (f"  note: {note}" for note in outcome.notes)
    for rule, found in outcome.findings.items():
        yield f"  {'ok  ' if not found else 'FAIL'} {rule.replace('_', ' ')}: {len(found)}"
        yield from (f"         {finding}" for finding in found[:SHOWN])
        if len(found) > SHOWN:
            yield f"         and {len(found) - SHOWN} more"
    yield from (f"  FAIL fewer than {options.least_kills} of: {kind}" for kind in outcome.too_few)
    yield f"  {'passed' if outcome.passed else 'FAILED'}: {unaccounted(outcome)} unaccounted"


def unaccounted(outcome: Outcome) -> int:
    return len(outcome.findings["every_task_is_accounted_for"])


def as_json(outcome: Outcome) -> str:
    told = {
        **asdict(outcome.options),
        "counts": outcome.counts,
        "done": outcome.done,
        "cost": {name: round(value, 3) for name, value in asdict(outcome.cost).items()},
        "rest": round(outcome.seconds_of_rest, 1),
        "findings": {rule: len(found) for rule, found in outcome.findings.items() if found},
        "unaccounted": unaccounted(outcome),
        "passed": outcome.passed,
    }
    return json.dumps(told)

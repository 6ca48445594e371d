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
    yield (
        f"  in the app's code per task: median {cost.median:.2f} ms, p99 {cost.p99:.2f} ms, longest "
        f"{cost.longest:.1f} ms ({cost.executions} executions, {cost.stopped} frozen; "
        f"with the time that others had the processor p99 {cost.wall_p99:.2f} ms, longest {cost.wall_longest:.1f} ms)"
    )
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

"""`python -m chaos --seed 7 --seconds 60`: exits 0 where every rule holds. Says where the ledger and the logs are."""

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from chaos import report
from chaos.driver import MANY, Options, run
from chaos.faults import Scenario


def main() -> int:
    given = _parser().parse_args()
    options = Options(
        seed=given.seed or secrets.token_hex(4),
        seconds=given.minutes * 60 if given.minutes else given.seconds,
        scenario=Scenario(given.scenario),
        rate=given.rate,
        tasks=given.tasks,
        least_kills=given.least_kills,
    )
    folder = Path(given.folder or tempfile.mkdtemp(prefix=f"chaos-{options.seed}-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"seed {options.seed}, scenario {options.scenario}, {options.seconds:g} s; ledger and logs in {folder}",
        flush=True,
    )
    outcome = run(options, folder)
    print("\n".join(report.lines(outcome)), flush=True)
    (folder / "outcome.json").write_text(report.as_json(outcome))
    return 0 if outcome.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", default="", help="what to repeat; one is drawn and printed where none is given")
    parser.add_argument("--seconds", type=float, default=60, help="of publishing and killing")
    parser.add_argument("--minutes", type=float, default=0, help="the same in minutes")
    parser.add_argument("--scenario", default="A", choices=[each.value for each in Scenario])
    parser.add_argument("--rate", type=float, default=15, help="calls a second")
    parser.add_argument("--tasks", type=int, default=MANY, help="where the publisher stops")
    parser.add_argument("--least-kills", type=int, default=0, help="of each kind, or the run fails")
    parser.add_argument("--folder", default="", help="for the ledger and the logs")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""What ended before its process was killed is never called lost, and nobody is called lost who lives."""

from chaos.tables import Tables
from chaos.verdict.finding import Finding
from chaos.verdict.record import Record

LOST = ("worker_lost", "end_lost", "cancelled", "poison")
OF_WORKERS = ("worker_lost", "poison", "redelivery")


def no_run_is_called_lost_that_had_ended(record: Record, tables: Tables) -> list[Finding]:
    found = []
    for task_id, run in sorted(tables.runs.items()):
        for told in run.deliveries():
            end = record.ends.get(told.delivery)
            if end is None or told.reason not in LOST or not record.had_ended(end):
                continue
            death = record.death_after(end)
            lived = "and was never killed" if death is None else f"{(death - end.at) / 1e6:.0f} ms before it was killed"
            found.append(
                Finding(
                    task_id,
                    f"delivery {told.delivery} is told as {told.state} {told.reason}, and the ledger says "
                    f"{end.what} by process {end.pid} {lived} ({told.exception_message!r})",
                )
            )
    return found


def no_living_worker_is_called_lost(record: Record, tables: Tables) -> list[Finding]:
    """Where no pause is longer than half of WORKER_TIMEOUT."""
    found = []
    for entry in tables.audit:
        if entry.action != "reap" or entry.outcome not in OF_WORKERS:
            continue
        boot = entry.details.get("boot_id", "")
        pid = tables.boots.get(boot)
        if pid is not None and pid not in record.deaths and pid not in record.goodbyes:
            found.append(Finding(entry.task_id, f"was reaped ({entry.outcome}): worker {pid} of boot {boot} lives"))
    return found

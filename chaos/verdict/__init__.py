"""Tables against ledger: each promise is a rule of its own, and says of whom it was broken."""

from collections.abc import Callable, Mapping

from chaos.faults import Scenario
from chaos.tables import Tables
from chaos.verdict import accounts, costs, decisions, losses, outcomes, starts
from chaos.verdict.finding import Finding
from chaos.verdict.record import Record

Rule = Callable[[Record, Tables], list[Finding]]

RULES: tuple[Rule, ...] = (
    accounts.every_task_is_accounted_for,
    accounts.every_letter_is_where_its_run_is,
    accounts.every_letter_has_its_message,
    losses.no_run_is_called_lost_that_had_ended,
    outcomes.every_start_is_told_once,
    outcomes.every_end_is_told_as_it_was,
    outcomes.nothing_is_told_that_never_was,
    outcomes.every_retry_was_sent,
    outcomes.counters_equal_the_rows,
    starts.nothing_starts_twice,
    starts.nothing_is_run_again_unasked,
    decisions.one_decision_sends_once,
    decisions.every_decision_is_written_down,
    costs.the_hooks_are_quick,
    costs.no_task_fails_because_of_the_app,
)
ONLY: Mapping[Scenario, tuple[Rule, ...]] = {
    Scenario.A: (losses.no_living_worker_is_called_lost,),
    Scenario.B: (),
}


def judge(record: Record, tables: Tables, scenario: Scenario) -> dict[str, list[Finding]]:
    """What was found, by the name of the rule; an empty list for a rule that holds."""
    return {rule.__name__: rule(record, tables) for rule in (*RULES, *ONLY[scenario])}

"""No letter is sent for two decisions."""

from collections import Counter, defaultdict

from chaos.tables import Tables
from chaos.verdict.finding import Finding
from chaos.verdict.record import Record

REQUEUE = "requeue"


def one_decision_sends_once(record: Record, tables: Tables) -> list[Finding]:
    """A letter is sent again only where an earlier send has failed, and the audit says so."""
    reopened = Counter(
        entry.object_id for entry in tables.audit if entry.action == REQUEUE and not entry.outcome.startswith("sent")
    )
    sent = Counter(str(line.detail["letter"]) for line in record.decided if line.detail["action"] == REQUEUE)
    found = [
        Finding(f"letter {letter}", f"{count} decisions have sent it, it was opened again {reopened[letter]} times")
        for letter, count in sorted(sent.items())
        if count > 1 + reopened[letter]
    ]
    return found + _sent_twice(record)


def _sent_twice(record: Record) -> list[Finding]:
    nonces = defaultdict(set)
    for start in record.starts.values():
        if start.generation and start.retries == 0:
            nonces[start.epoch].add(start.nonce)
    return [
        Finding(epoch[0], f"generation {epoch[2]} was started by {len(found)} sends: {sorted(found)}")
        for epoch, found in sorted(nonces.items())
        if len(found) > 1
    ]


def every_decision_is_written_down(record: Record, tables: Tables) -> list[Finding]:
    """In the audit, once."""
    entries = Counter(
        (entry.object_id, entry.details.get("generation"))
        for entry in tables.audit
        if entry.action == REQUEUE and entry.outcome.startswith("sent")
    )
    found = []
    for line in record.decided:
        key = (str(line.detail["letter"]), line.generation)
        if line.detail["action"] == REQUEUE and entries[key] != 1:
            found.append(
                Finding(
                    f"letter {key[0]}", f"generation {key[1]} stands {entries[key]} times in the audit ({line.detail})"
                )
            )
    return found

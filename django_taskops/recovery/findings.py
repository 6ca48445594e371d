"""What the doctor may find, in words for people and codes for programs. docs/doctor.md explains each code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from django.utils.formats import number_format
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy


class Level(StrEnum):
    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


class Words(NamedTuple):
    """Of one code. `advice` is "" where there is nothing to do."""

    level: Level
    sentence: Any
    advice: Any = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`facts` are what its sentence speaks of; where it counts, `count` says how many."""

    code: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def level(self) -> Level:
        return WORDS[self.code].level

    @property
    def sentence(self) -> str:
        """For people, in the language of the moment."""
        return self._told(WORDS[self.code].sentence)

    @property
    def advice(self) -> str:
        """What to do, in the language of the moment."""
        return self._told(WORDS[self.code].advice)

    def _told(self, words: Any) -> str:
        number = number_format(self.facts.get("count", 0), force_grouping=True)
        return str(words % {**self.facts, "number": number}) if words else ""


WORDS: Mapping[str, Words] = {
    # Of the whole system
    "well": Words(
        Level.GOOD,
        ngettext_lazy(
            "All is well: the broker answers, %(number)s worker is alive, and what it does is recorded.",
            "All is well: the broker answers, %(number)s workers are alive, and what they do is recorded.",
            "count",
        ),
    ),
    "broker_unasked": Words(
        Level.GOOD, _("What waits in the queues is not known: only Redis and RabbitMQ can be asked.")
    ),
    "eager": Words(
        Level.WARNING,
        _("Celery runs every task eagerly (task_always_eager): nothing reaches a worker."),
        _("Set task_always_eager in the settings of the tests only."),
    ),
    "broker_unreachable": Words(
        Level.BAD,
        _("The broker does not answer: %(error)s"),
        _("Start it, or correct its address (broker_url). Until then nothing is sent and nothing is read."),
    ),
    "recorder_blind": Words(
        Level.BAD,
        "%(reason)s",
        _("Look at the page of the recorder or at taskops_stats. Until then, what is said here may be old."),
    ),
    "recorder_dropped": Words(
        Level.WARNING, "%(reason)s", _("Give the journal more room, or find out why it was not drained.")
    ),
    "no_worker": Words(
        Level.BAD,
        _("No worker is alive, as far as is known."),
        _("Start one: celery -A your_project worker. One without this app is not seen."),
    ),
    "worker_silent": Words(
        Level.WARNING,
        _("Worker %(worker)s has been silent for %(time)s and did not say that it stops."),
        _("It was killed, it hangs, or it can't reach the journal. Look at its log and at its host."),
    ),
    "clock_ahead": Words(
        Level.WARNING,
        _("The clock of worker %(worker)s is %(time)s ahead of the database's."),
        _("Keep the clocks of all hosts in step (NTP): a wrong one starts tasks early and lets them expire early."),
    ),
    "clock_behind": Words(
        Level.WARNING,
        _("The clock of worker %(worker)s is %(time)s behind the database's."),
        _("Keep the clocks of all hosts in step (NTP): a wrong one starts tasks late and runs what has expired."),
    ),
    "pool_stuck": Words(
        Level.WARNING,
        ngettext_lazy(
            "Worker %(worker)s is stuck: its %(number)s slot has been busy with one task for over 10 minutes, and "
            "%(waiting)s more wait in it.",
            "Worker %(worker)s is stuck: all its %(number)s slots have been busy with the same tasks for over 10 "
            "minutes, and %(waiting)s more wait in it.",
            "count",
        ),
        _("Look at what runs there. Give such tasks a time limit, or workers and a queue of their own."),
    ),
    "queue_unread": Words(
        Level.BAD,
        ngettext_lazy(
            "%(number)s message waits in the queue %(queue)s, which no live worker reads.",
            "%(number)s messages wait in the queue %(queue)s, which no live worker reads.",
            "count",
        ),
        _("Start a worker with -Q %(queue)s, or send the task to a queue that is read."),
    ),
    "task_unregistered": Words(
        Level.BAD,
        _("No worker that reads the queue %(queue)s knows the task %(task)s: the one that receives it discards it."),
        _("Let the worker import its module (autodiscover_tasks, include), and restart it after a deployment."),
    ),
    "unknown_tasks": Words(
        Level.WARNING,
        ngettext_lazy(
            "%(number)s dead letter is of a task that its worker did not know, the newest of %(task)s.",
            "%(number)s dead letters are of tasks that their workers did not know, the newest of %(task)s.",
            "count",
        ),
        _("Let the worker import the task's module, restart it, and requeue the dead letters."),
    ),
    # Of one run
    "ended": Words(Level.GOOD, _("It has ended: %(state)s.")),
    "running": Words(Level.GOOD, _("Worker %(worker)s runs it.")),
    "worker_gone": Words(
        Level.WARNING,
        _("Worker %(worker)s had it, and is not alive any more."),
        _(
            "The broker delivers it again if it was not acknowledged: RabbitMQ at once, Redis after its visibility "
            "timeout."
        ),
    ),
    "not_due": Words(Level.GOOD, _("It may not start before %(time)s.")),
    "retry_due": Words(Level.GOOD, _("Its next attempt is due at %(time)s.")),
    "expired": Words(
        Level.WARNING,
        _("It expired at %(time)s, and nobody has received it."),
        _("The worker that receives it discards it. RabbitMQ drops it by itself and tells nobody."),
    ),
    "redelivery_due": Words(
        Level.GOOD, _("Its worker is gone. The broker still has it, and delivers it again by %(time)s.")
    ),
    "redelivery_overdue": Words(
        Level.WARNING,
        _("Its worker is gone, and the broker should have delivered it again by %(time)s."),
        _("Redis delivers it again only while a worker reads its queue. Is there one?"),
    ),
    "held": Words(
        Level.GOOD, _("Worker %(worker)s holds it, and starts it when its time has come and a slot is free.")
    ),
    "in_queue": Words(
        Level.GOOD,
        ngettext_lazy(
            "It waits in the queue %(queue)s, which holds %(number)s message and is read by %(readers)s.",
            "It waits in the queue %(queue)s, which holds %(number)s messages and is read by %(readers)s.",
            "count",
        ),
    ),
    "sent": Words(Level.GOOD, _("It was sent to the queue %(queue)s, which is read by %(readers)s.")),
    "queue_absent": Words(
        Level.BAD,
        _("The broker has no queue %(queue)s any more, and no live worker reads one."),
        _("Start a worker with -Q %(queue)s, and publish the task again: its message is gone."),
    ),
    "nowhere": Words(
        Level.WARNING,
        _("The queue %(queue)s is empty, and no live worker says that it holds it."),
        _(
            "Its message was purged, has expired, or went to a worker that was killed or does not record. Redis keeps "
            "what was not acknowledged and delivers it again: %(unacknowledged)s in all queues."
        ),
    ),
    "queue_unknown": Words(
        Level.WARNING,
        _("It is not known to which queue it was sent, and no live worker holds it."),
        _("Let the process that publishes it have this app, so that it is recorded."),
    ),
}

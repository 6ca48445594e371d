"""A process of the project with two apps that runs no task, as its web server is. The second app, the last that was
made, is the current one here.

python -m tests.beside.publisher publish <key>      prints the ids of what it has published
python -m tests.beside.publisher requeue <id> ...   requeues the open letters of these tasks
"""

import json
import sys

import django

django.setup()

from django_taskops.models import DeadLetter  # noqa: E402
from django_taskops.recovery import requeue  # noqa: E402
from tests.beside import two_apps  # noqa: E402
from tests.beside.found import break_where_found  # noqa: E402


def publish(key: str) -> None:
    found = break_where_found.name
    tasks = {
        "first": {
            "bound": two_apps.bound_to_first,
            "in no other app": two_apps.only_in_first,
            "class-based": two_apps.class_based_in_first,
            "shared": two_apps.first.tasks[found],
        },
        "second": {
            "bound": two_apps.bound_to_second,
            "in no other app": two_apps.only_in_second,
            "class-based": two_apps.class_based_in_second,
            "shared": two_apps.second.tasks[found],
        },
    }
    called = {
        app: {case: task.delay(key, password="hunter2").id for case, task in cases.items()}
        for app, cases in tasks.items()
    }
    for app in (two_apps.first, two_apps.second):
        called[str(app.main)]["by its name"] = app.send_task(found, (key,), {"password": "hunter2"}).id
    parent = two_apps.hand_over.delay(key)
    sys.stdout.write(json.dumps(called | {"parent": parent.id}))


def again(*task_ids: str) -> None:
    for letter in DeadLetter.objects.filter(task_id__in=task_ids, status="open"):
        requeue(letter)


if __name__ == "__main__":
    command, *given = sys.argv[1:]
    publish(*given) if command == "publish" else again(*given)

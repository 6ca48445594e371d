"""A process of its own that publishes no-op tasks, as a web process does, and prints what each call took.

With `--stops` and `--pause` it stops a process halfway, with a pause after each call.
"""

import argparse
import json
import os
import signal
import time

import django

from .app import noop
from .payloads import PAYLOADS


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.publisher", description=__doc__)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--payload", choices=PAYLOADS, required=True)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each call")
    parser.add_argument("--stops", type=int, default=0, help="the process id that gets a SIGSTOP halfway")
    options = parser.parse_args()
    django.setup()
    started = time.process_time()
    delays = _publish(options)
    print(json.dumps({"delays": delays, "cpu": time.process_time() - started}))


def _publish(options: argparse.Namespace) -> list[float]:
    args, kwargs = PAYLOADS[options.payload]
    delays = []
    for number in range(options.tasks):
        if options.stops and number == options.tasks // 2:
            os.kill(options.stops, signal.SIGSTOP)
        started = time.perf_counter()
        noop.delay(*args, **kwargs)
        delays.append(time.perf_counter() - started)
        if options.pause:
            time.sleep(options.pause)
    return delays


if __name__ == "__main__":
    main()

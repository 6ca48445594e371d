"""What a page asks our tables."""

import re

from django.test.utils import CaptureQueriesContext

OF_THE_RECORDER = re.compile(r"taskops_(recorder|quarantinedentry|outboxentry)")


def statements(captured: CaptureQueriesContext) -> list[str]:
    """Without what the line above each page asks: the same on all of them, and kept for two seconds."""
    asked = [query["sql"] for query in captured if "taskops_" in query["sql"]]
    return [statement for statement in asked if not OF_THE_RECORDER.search(statement)]

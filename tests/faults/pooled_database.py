"""Imported by a worker that is to take its connections from a psycopg pool."""

import os

from django.db import connections

VARIABLE = "TASKOPS_TEST_POOL"

if VARIABLE in os.environ:
    connections["default"].settings_dict["OPTIONS"]["pool"] = True

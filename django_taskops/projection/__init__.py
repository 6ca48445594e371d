"""Merges events into rows, in bulk, idempotently. Knows the ORM, never Celery."""

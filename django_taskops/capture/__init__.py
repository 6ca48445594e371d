"""Turns what Celery does into events. Knows Celery, never the ORM."""

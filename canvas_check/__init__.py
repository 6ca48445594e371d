"""Celery's own integration scenarios for canvas, without this app and with it: the results must be the same."""

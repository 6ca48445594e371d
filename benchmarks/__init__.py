"""Side by side with bare Celery and django-celery-results. Start with `python -m benchmarks --help`."""

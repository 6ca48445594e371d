"""A small real shop that runs its day on Celery, for the demo and for trying django-taskops out."""

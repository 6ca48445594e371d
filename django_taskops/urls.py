"""The status JSON: `path("taskops/", include("django_taskops.urls"))`."""

from django.urls import path

from .api import views

app_name = "taskops"

urlpatterns = [
    path("tasks/", views.statuses, name="statuses"),
    path("tasks/<path:task_id>/", views.status, name="status"),
]

"""The status of a run as JSON, for front ends that poll."""

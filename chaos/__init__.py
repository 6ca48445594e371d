"""`make chaos`: real workers under constant killing, and an independent record of what their tasks did. Not shipped."""

"""What breaks, breaks for real here: servers, processes and disks."""

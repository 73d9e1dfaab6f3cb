"""Many scans, each enhanced in a process of its own."""

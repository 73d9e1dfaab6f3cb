"""Work in separate processes and threads."""

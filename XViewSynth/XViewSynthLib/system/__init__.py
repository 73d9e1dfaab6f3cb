"""Services of the operating system: files, locks, signals, streams and memory."""

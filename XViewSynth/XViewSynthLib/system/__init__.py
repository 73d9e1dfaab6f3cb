"""What the operating system offers: files, locks, signals, streams and memory."""

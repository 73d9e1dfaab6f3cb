"""Enhances many scans, each in a separate process."""

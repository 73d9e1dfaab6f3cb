"""Scans as numbers in space: volumes, grids, slices and what lies between them."""

"""Volumes, grids, slice profiles and interpolation."""

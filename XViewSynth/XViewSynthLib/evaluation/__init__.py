"""Evaluation of results: metrics, baselines, benchmark, self-check and calibration."""

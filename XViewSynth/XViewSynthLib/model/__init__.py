"""Networks, their model cards and their folders."""

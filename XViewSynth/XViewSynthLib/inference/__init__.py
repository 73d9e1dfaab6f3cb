"""Planning and computation of an enhancement."""

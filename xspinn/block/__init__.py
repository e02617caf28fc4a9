"""Run one block: every patch, the sums, what is passed to neighbours."""

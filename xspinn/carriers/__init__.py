"""Bytes of a model, and how they reach each process once."""

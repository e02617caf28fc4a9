"""Benchmarks of xspinn: one module a question, run by asv (see CONTRIBUTING.md)."""

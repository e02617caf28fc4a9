"""Ask a model what it needs and what it returns."""

"""One file a format of models."""

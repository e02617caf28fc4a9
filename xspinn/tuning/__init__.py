"""The fastest way of calling a model that gives the same answer."""

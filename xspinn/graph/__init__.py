"""A plan as lazy, labelled dask arrays."""

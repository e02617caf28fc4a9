"""Uses of other packages' private parts: one file a package, with the versions tried."""

"""Private parts of other packages that xspinn uses, one file a package."""

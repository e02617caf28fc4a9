"""What this process has, and who it is."""

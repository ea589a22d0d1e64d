"""``romancy check``: find in workflow code, without running it, what a replay would not repeat."""

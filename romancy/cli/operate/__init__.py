"""Commands that look at instances, and act on them, in the database of a running service."""

"""Start, send, cancel, list, wait: talks to storage alone."""

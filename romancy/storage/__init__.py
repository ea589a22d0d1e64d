"""Where instances live: the `Storage` protocol and its databases."""

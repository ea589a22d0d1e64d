"""A process that executes instances: claims, turns, activities, commits, timers, inboxes."""

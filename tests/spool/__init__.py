"""The spool: what any engine must keep, what SQLite's does about faults, and how all that is tried out."""

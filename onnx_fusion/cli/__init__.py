"""The command line: one file per command, with `add` (its options) and `run` (the work)."""

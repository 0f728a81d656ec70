"""A long run with real servers and all kinds of changes; `python -m tests.live` starts it."""

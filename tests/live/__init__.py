"""A long run with everything real and everything at once; `python -m tests.live` starts it."""

"""The commands of `rowvec`, a module for each group of them.

`options` has what they share. A command imports what it needs when it is called, so that
`rowvec health` stays cheap: probes call it every few seconds. May import: everything below
`flows.cli`, inside functions; at the top of a module only typer, rich, and `operators.errors`.
"""

__all__ = ["check", "dead_letters", "demo", "health", "options", "run", "search"]

"""All parts of the stream: values, the seams to other systems, and the stages on top.

Nothing in here reads the environment, opens a connection on import, or knows how the stages are
wired together; `flows` does. Each package says in its first lines what lives there; its `__all__`
names the modules that others may import.
"""

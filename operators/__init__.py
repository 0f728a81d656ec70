"""The stages of the stream: one pure Logic class and one thin Bytewax operator per file.

Nothing in here reads the environment, opens a connection on import, or knows how the stages are
wired together; `flows` does.
"""

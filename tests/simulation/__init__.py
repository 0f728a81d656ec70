"""The simulator: the real stages, a model of Bytewax's recovery around them, and one judge.

| | |
|---|---|
| `history`, `topic`, `tables` | what a database does, and the records that tell of it |
| `worker`, `queues`, `flow` | the driver: one process, what lies between its stages, and all processes with what they commit |
| `store`, `clock` | what the flow talks to, and virtual time |
| `oracle`, `excuses` | what a reader may see, what must be true at rest, and when a dead letter is right |
| `world`, `plan`, `schedule`, `runs` | seeded runs: `python -m tests.simulation` |
| `script` | runs whose steps a test names: all of `tests/properties` but the decoder's |
"""

"""The simulator: the real stages, a model of Bytewax's recovery around them, and one oracle.

| | |
|---|---|
| `history`, `topic`, `tables` | the changes of a database, and the records that Debezium writes for them |
| `worker`, `queues`, `flow` | the driver: one process, the queues between its stages, and all processes with their committed state |
| `store`, `clock` | the external systems with their faults, and virtual time |
| `oracle`, `excuses` | what a reader may see, what must be true at rest, and which dead letters are right |
| `away` | the recovery state after a run without the table |
| `world`, `plan`, `schedule`, `runs` | seeded runs: `python -m tests.simulation` |
| `script` | runs whose steps a test names: all of `tests/properties` but the decoder's |
"""

"""Messages in Confluent's wire format, by the schemas of a schema registry.

`decoder` is the entry point; `avro` and `protobuf` each read one kind of schema, `client` asks the
registry. Only this package imports the registry's libraries. May import: the codec, and what the
codec may.
"""

__all__ = ["decoder"]

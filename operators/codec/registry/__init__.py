"""Messages in Confluent's wire format, by the schemas of a schema registry.

`decoder` is the way in; `avro` and `protobuf` each read one kind of schema, `client` asks the
registry. The only imports of its libraries. May import: the codec, and what the codec may.
"""

__all__ = ["decoder"]

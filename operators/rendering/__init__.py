"""A row → what the store will hold: its text and its fields, under the contract.

`renderer` is the entry point: filters, soft deletes, masks, the text template, mirrored columns.
`added_columns` follows columns that the table gains. May import: codec, store, changes, contract.
"""

__all__ = ["added_columns", "masks", "renderer"]

"""Fuzzing: damaged messages and drawn contracts, from bytes to a row and through whole flows."""

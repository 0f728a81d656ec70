"""The real flow under kill -9, a thousand times, and a checker of everything that readers saw."""

"""The real flow under attack: kill -9 by the thousand, and a judge of all that readers saw."""

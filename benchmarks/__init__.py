"""One file per cost. See README.md for the method and the results."""

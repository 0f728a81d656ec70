"""`python -m tests.simulation`: many runs, or a repeat of one seed."""

import sys

from tests.simulation.runs import main

sys.exit(main())

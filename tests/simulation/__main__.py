"""`python -m tests.simulation`: many runs, or one seed again."""

import sys

from tests.simulation.runs import main

sys.exit(main())

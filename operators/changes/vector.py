"""The type of a vector."""

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
"""One embedding: float32 of shape (dim,)."""

"""Arrays of any dtype and shape."""

from typing import Any

import numpy as np

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]
"""As `numpy.typing.NDArray[Any]`, which takes milliseconds to import."""

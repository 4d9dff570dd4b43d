"""Arrays of any dtype and shape."""

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

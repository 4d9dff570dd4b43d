"""How many random cases the tests draw: some each time, and the many that `make fuzz` asks for."""

from __future__ import annotations

import os

MANY = "EETOOLKIT_MANY" in os.environ

"""`python -m eetoolkit`, for where the `eetoolkit` script is not on the path."""

from eetoolkit.cli import main

main()

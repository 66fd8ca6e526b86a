"""`python -m smidgen`: the same as the command `smidgen`."""

from smidgen.cli.main import run

run()

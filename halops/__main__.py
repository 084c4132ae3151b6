"""`python -m halops` is `halops`."""

from halops.cli.main import main

main()

"""Run the command line: `python -m distilkit`."""

from distilkit.cli.app import main

main()

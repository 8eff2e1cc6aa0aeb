"""`python -m clearclip`: the same program as `clearclip`."""

from clearclip.cli import main

main()

"""The verbs of the command line: each file adds its arguments to a parser, and runs."""

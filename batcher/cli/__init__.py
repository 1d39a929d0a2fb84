"""The command line: parse, ask, print, map errors to exit codes."""

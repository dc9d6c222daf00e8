"""The command line: thin, and nothing heavy is imported before a command needs it."""

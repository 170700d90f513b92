"""The ``mailauth`` command: its words and options, its settings, and what each of its subcommands does."""

"""The ``mailauth`` command: its options, its settings and its subcommands."""

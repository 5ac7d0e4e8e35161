"""How people start eigenmill: YAML job files, the command line, the demonstration."""

"""How people start eigenmill: YAML job files, the command line, the demonstration."""

if __name__ != "eigenmill.jobs":
    raise ImportError(
        f"expected 'import eigenmill.jobs', found this package imported as {__name__!r}; "
        "one file must not be two modules: import it from eigenmill"
    )

"""The `pytikv` command."""


def main() -> None:
    """Run the command."""
    raise SystemExit("not built yet")

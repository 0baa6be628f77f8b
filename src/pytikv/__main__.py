"""`python -m pytikv` is the `pytikv` command."""

from pytikv.cli import main

if __name__ == "__main__":
    main()

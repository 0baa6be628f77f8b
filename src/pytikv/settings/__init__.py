"""How options are read from arguments, URL, environment and file, checked, and explained; which there are is `config`'s."""

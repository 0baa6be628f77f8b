"""How options are read from arguments, URL, environment and file, checked, and explained. `config` says which."""

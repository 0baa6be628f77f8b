"""Moving rows between files and a store: readers, templates, the loader, the dumper. The command line renders it."""

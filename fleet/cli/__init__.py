"""The `tinyfleet` command: the REST API from a shell. No Django in it."""

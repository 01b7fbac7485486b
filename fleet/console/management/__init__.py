"""Management commands: the stack (`dev`), the check of an installation (`doctor`) and the walk (`demo`)."""

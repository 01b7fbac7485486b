"""Views of the console: thin shells over the verbs and queries that REST uses too."""

"""One module per `manage.py` command of the console package."""

"""Pages below /settings, one a module."""

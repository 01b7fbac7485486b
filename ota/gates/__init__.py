"""Gates: pure functions from counts and pairs to rows and a verdict. No clock, no database."""

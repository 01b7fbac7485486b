"""`python -m fleet.cli`: the `tinyfleet` command from a checkout."""

from fleet.cli.main import main

raise SystemExit(main())

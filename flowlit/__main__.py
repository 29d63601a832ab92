"""``python -m flowlit``."""

from .commands import main

raise SystemExit(main())

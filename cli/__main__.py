"""`python -m cli` is `rgunit`."""

import sys

from cli.main import main

sys.exit(main())

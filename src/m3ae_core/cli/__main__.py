"""``python -m m3ae_core.cli``."""

import sys

from m3ae_core.cli import main

sys.exit(main())

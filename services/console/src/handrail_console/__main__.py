"""`python -m handrail_console`: the service."""

import os
import sys

from handrail_console.bootstrap import main

sys.exit(main(os.environ))

"""`python -m handrail_console.web`: the page."""

import os

from handrail_console.web.bootstrap import main

main(os.environ)

"""`python -m handrail_monitor`: the service."""

import os
import sys

from handrail_monitor.bootstrap import main

if __name__ == "__main__":
    code = main(os.environ)
    sys.stdout.flush()
    os._exit(code)  # a thread of Faust that hangs must not hold up the end

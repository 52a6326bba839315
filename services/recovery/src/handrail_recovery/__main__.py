"""Run the recovery service: `python -m handrail_recovery`."""

from handrail.service import main

from handrail_recovery.bootstrap import plans

main("recovery", plans)

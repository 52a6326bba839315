"""Run the action service: `python -m handrail_action`."""

from handrail.service import main

from handrail_action.bootstrap import plans

main("action", plans)

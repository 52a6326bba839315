"""Run the decision service: `python -m handrail_decision`."""

from handrail.service import main

from handrail_decision.bootstrap import plans

main("decision", plans)

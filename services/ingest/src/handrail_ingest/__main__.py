"""Run the ingest service: `python -m handrail_ingest`."""

from handrail.service import main

from handrail_ingest.bootstrap import plans

main("ingest", plans)

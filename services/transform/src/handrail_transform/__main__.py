"""Run the transform service: `python -m handrail_transform`."""

from handrail.service import main

from handrail_transform.bootstrap import plans

main("transform", plans)

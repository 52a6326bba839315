"""What users test their flows with: an in-memory log, a manual clock, and a real broker as a pytest fixture."""

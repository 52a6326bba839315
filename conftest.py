"""Fixtures for every test of the workspace."""

pytest_plugins = ["handrail.testing.broker"]

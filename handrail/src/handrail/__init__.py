"""Handrail: automations between systems that hold on bad days."""

__version__ = "0.1.0"

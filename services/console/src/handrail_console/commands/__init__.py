"""The commands of console: `handrail runs`, `handrail dlq`, `handrail tasks`."""

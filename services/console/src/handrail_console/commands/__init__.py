"""The commands of console: `handrail runs`, `dlq`, `tasks`, `ledger`, `measures`, `trace`."""

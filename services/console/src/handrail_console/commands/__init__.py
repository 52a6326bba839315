"""The commands of console: `handrail runs`, `dlq`, `tasks`, `alerts`, `audit`, `review`, `ledger`, `measures`, `trace`."""

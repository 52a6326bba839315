"""The read-only page: the ledger in a browser, by a process of its own that needs neither Kafka nor the follower."""

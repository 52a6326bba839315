"""Kafka: the log of a stage, topics and their provisioning. Nothing else in the library imports a Kafka client."""

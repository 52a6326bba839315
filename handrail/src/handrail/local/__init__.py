"""The local stack: a real Apache Kafka and the services, each its own process, under one supervisor."""

"""What Redis and PostgreSQL share."""

"""All that Redis and PostgreSQL share."""

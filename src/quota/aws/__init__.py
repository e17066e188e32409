"""API Gateway's keys and usage plans, read and written; keys as CSV."""

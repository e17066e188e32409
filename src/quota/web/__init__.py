"""What the middlewares share: the gate, credentials, routes."""

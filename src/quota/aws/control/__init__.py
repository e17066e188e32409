"""API Gateway's control plane: its HTTP, its signatures, its errors, over a ledger."""

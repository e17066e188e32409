"""Reservations: their handles, how they are settled, and settled again where the store was away."""

"""Redis and Valkey: many machines, fast."""

from .store import AsyncRedisStore, RedisStore, open_url

__all__ = ["AsyncRedisStore", "RedisStore", "open_url"]

"""Records in memory: each operation pauses before its one step, so that callers interleave as with a real store."""

import asyncio


class MemoryRecords:
    """``model.ports.Records`` kept for as long as this object lives."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, bytes]] = {}

    async def get(self, bucket: str, key: str) -> bytes | None:
        """Return the record, or None."""
        await asyncio.sleep(0)
        return self.buckets.get(bucket, {}).get(key)

    async def put(self, bucket: str, key: str, value: bytes) -> None:
        """Write it."""
        await asyncio.sleep(0)
        self.buckets.setdefault(bucket, {})[key] = value

    async def create(self, bucket: str, key: str, value: bytes) -> bool:
        """Write it only if it is not there; say whether it was written."""
        await asyncio.sleep(0)
        return self.buckets.setdefault(bucket, {}).setdefault(key, value) is value

    async def take(self, bucket: str, key: str) -> bytes | None:
        """Delete it and return what it was."""
        await asyncio.sleep(0)
        return self.buckets.get(bucket, {}).pop(key, None)

    async def list(self, bucket: str) -> dict[str, bytes]:
        """All records of a bucket by key."""
        await asyncio.sleep(0)
        return dict(self.buckets.get(bucket, {}))

"""Use cases: each one transaction that decides and records; nothing here touches hardware."""

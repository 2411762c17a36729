"""The database: SQLite on one machine, PostgreSQL on many; rows become frozen records at this edge."""

"""The stores on PostgreSQL: asyncpg, plain SQL, one statement for each step of a turn."""

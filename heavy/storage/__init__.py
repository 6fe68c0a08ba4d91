"""The database behind the store protocols of turns and jobs: PostgreSQL and SQLite. `open.py` chooses by URL; only `app` imports it."""

"""The stores on SQLite: the standard library's sqlite3, one writer thread, a whole transaction in one hop."""

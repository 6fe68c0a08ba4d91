"""The config centre: versions of agents in the database, which of them is in force, and how every replica learns it."""

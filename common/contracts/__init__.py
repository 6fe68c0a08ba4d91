"""What passes between clients and tiers: requests, replies, events, tickets, journal entries. Data only: no I/O, no web framework."""

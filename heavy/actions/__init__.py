"""What each kind of action does with a message: one file a kind. None of them knows turns, leases, stores or the wire."""

"""The life of one turn: admission, lease, load, decide, act, commit."""

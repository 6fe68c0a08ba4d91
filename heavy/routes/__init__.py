"""HTTP endpoints of the heavy tier. Each file is one subject; none of them knows how a turn is run."""

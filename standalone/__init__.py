"""The only place that knows both tiers: the single process, the supervisor of a split, the command line."""

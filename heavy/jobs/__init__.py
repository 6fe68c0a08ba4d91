"""Work that no request waits for: tasks, batches and schedules, timers, moving the journal into the database, taking over turns."""

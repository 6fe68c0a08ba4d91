"""Work that no request waits for: moving the journal into the database, taking over turns of dead nodes."""

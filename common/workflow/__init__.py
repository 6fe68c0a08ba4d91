"""The workflow file: its model, its loader, its lint. The model is immutable data; compiling rules and templates is done by its users."""

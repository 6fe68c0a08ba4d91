"""What both services import, and what passes between them."""

"""`python -m loadtests.chaos`: clients talk to a whole split while its processes are killed, frozen and restarted; then it is judged."""

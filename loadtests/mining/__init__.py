"""Rules mined from labelled messages: what a person would write after reading them, found by counting. It knows no engine."""

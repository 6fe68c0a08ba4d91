"""Rules over message texts. Pure: texts and a workflow in, a match out. It is the only package that imports RE2."""

"""What must hold, point by point: pure functions over what was recorded. `judge.py` asks all of them."""

"""Real cases beside the checkout, for the tests that need them."""

from pathlib import Path

REAL_CASES = Path(__file__).resolve().parents[2] / "shared" / "real_cases"
"""Real images for development, beside the checkout on some machines; tests that use them skip where they are absent."""

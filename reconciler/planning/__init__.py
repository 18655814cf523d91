"""From a World to a Plan to Effects, and back to a Status: pure."""

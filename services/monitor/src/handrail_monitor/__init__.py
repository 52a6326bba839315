"""Monitor: windows and rules over what the stages say of themselves, and alerts."""

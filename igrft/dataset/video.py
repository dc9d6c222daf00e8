"""The one place that opens video and pictures."""

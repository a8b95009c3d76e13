"""Bytes to an acknowledgement: uploads, then the result."""

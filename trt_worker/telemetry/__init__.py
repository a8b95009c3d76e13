"""What the operator sees: logs, running totals, metrics."""

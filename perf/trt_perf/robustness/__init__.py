"""What the suite `faults` measures: one module a fault that must not cost a job, a customer or an operator."""

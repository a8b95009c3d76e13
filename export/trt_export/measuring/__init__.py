"""What a network has and costs, counted from its module."""

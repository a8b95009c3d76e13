"""Work from the grid: WebSocket connections that carry one job at a time."""

"""What networks cost, counted on their modules without computing anything."""

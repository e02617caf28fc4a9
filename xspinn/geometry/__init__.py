"""Where patches lie and what they weigh, one dim at a time."""

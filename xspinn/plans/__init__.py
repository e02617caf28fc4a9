"""Values: what is asked for, what is settled, what it costs."""

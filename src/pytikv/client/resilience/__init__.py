"""What keeps a client calm when stores are not: breakers, limits, a budget for retries, hedged reads."""

"""The server half: storage engines, raw storage, PD, and the services that show them."""

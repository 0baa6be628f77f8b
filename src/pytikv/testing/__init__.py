"""Tools for tests, public: pytest fixtures, the simulated world, fault proxies and history checkers."""

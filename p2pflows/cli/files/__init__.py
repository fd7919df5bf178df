"""Commands about files beside messages."""

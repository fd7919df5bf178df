"""Commands for oneself and for others: identity, contacts, invitations and requests."""

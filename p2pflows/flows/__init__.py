"""Flows as classes: what a flow author subclasses, the messages it gets, and the port to what runs it."""

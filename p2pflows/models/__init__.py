"""Flows that ask a language model: keys that stay in the worker, templates, the model's server, and the chat flow."""

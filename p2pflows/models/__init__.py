"""Flows that ask a language model: the worker's keys, prompt templates, the client of a model server, and the flow."""

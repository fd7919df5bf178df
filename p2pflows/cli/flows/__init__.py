"""Commands for what is served: flows, their instances, modules and models."""

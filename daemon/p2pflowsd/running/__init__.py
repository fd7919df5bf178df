"""From a request to a result: which flow, which instance, which worker, and what a run leaves behind."""

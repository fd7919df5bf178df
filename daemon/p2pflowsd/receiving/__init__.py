"""From an MQTT delivery to a recorded request: verify, record, and decide who may pass."""

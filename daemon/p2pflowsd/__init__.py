"""The daemon: one person's key, journal and MQTT connection; `app` is where everything meets."""

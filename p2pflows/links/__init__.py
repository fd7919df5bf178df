"""Bytes in and out: the MQTT connection, and streams of records over sockets."""

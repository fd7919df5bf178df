"""Bytes in and out: the MQTT link, and streams of records over sockets."""

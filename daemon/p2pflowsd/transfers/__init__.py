"""The bytes of files beside messages: on the disk, and on their way from one daemon to another."""

"""What several test folders share: people with daemons, scripted stand-ins, and servers on this machine."""

"""What an unauthenticated machine may ask: DHCP, boot files, its script, and to report where it is."""

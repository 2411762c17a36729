"""Reading and converting disk images, and building what a node boots; pure tools, called by steps."""

"""`rezolus record`: a recording made from the command line, by the same daemon that runs as a service."""

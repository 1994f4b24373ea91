"""Speed and quality, measured: the scripts here, and in `figures` the page of results."""

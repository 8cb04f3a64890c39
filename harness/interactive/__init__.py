"""Video that goes on while one watches, and does what one types: in the terminal, or on a local web page."""

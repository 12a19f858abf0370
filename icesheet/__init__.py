"""What the scripts share and a researcher seldom opens: one noun a file. Imports no script."""

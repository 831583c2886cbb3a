"""One self-contained HTML page of a results folder: tables to sort and filter, and charts to point at."""

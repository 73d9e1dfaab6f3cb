"""Work in processes and threads of its own."""

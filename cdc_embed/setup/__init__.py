"""What is made, and what must hold before a service starts."""

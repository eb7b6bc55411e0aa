"""The protections of the code, by room, and a program that takes each out: ``__main__``."""

"""Pictures and sound as positions of the same sequence as text."""

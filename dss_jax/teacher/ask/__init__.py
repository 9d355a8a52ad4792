"""What a teacher is asked, how fast, and what it answered: the journal."""

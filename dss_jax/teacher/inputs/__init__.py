"""How files and datasets become the rows that a teacher is asked about."""

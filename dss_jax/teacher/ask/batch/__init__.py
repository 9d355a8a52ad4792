"""`--batch`: the journal is filled from batches of requests instead of one by one."""

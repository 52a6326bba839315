"""Console: the ledger of all runs in SQL, and the commands by which people read it and give orders."""

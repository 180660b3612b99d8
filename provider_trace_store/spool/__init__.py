"""The spool: files in which rows wait for the database and outlive the process that wrote them."""

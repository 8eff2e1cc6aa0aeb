"""How many images become result files, in this process or by Ray's workers: sources → tasks → outcomes → ledger."""

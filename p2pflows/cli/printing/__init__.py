"""What commands print: tables, facts, JSON, speech and progress."""

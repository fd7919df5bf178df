"""What people type: arguments, data, ids in short, and what the shell offers to complete them."""

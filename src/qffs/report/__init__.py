"""What was measured, for people and programs: results as JSON, a table, a figure."""

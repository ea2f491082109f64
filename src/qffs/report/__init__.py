"""Results for people and programs: as JSON, tables, figures and a page."""

"""The tables and figures of Li, Ma and Furber 2022, each made again from networks trained here."""

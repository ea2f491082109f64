"""The tables and figures of Li, Ma and Furber 2022, each reproduced with networks trained here."""

"""The steps from each version of the schema to the next, run by `_sql_migrate`."""

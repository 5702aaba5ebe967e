"""The business, as functions from DataFrames to DataFrames: no reading, no writing, no clock."""

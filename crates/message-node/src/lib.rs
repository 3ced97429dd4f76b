//! Accepts, checks, stores and streams Aleph messages; files, aggregates, balances and prices.

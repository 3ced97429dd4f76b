//! What a compute node decides: pure, given events and the time.

pub mod archive;
pub mod backoff;
pub mod data;
pub mod downloads;
pub mod on_demand;
pub mod persistent;
pub mod routes;
pub mod spares;
pub mod turns;
pub mod whereabouts;

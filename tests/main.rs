//! All integration tests, in one binary: they run the real `selfplay`, or the crates together.

mod bad_input;
mod end_to_end;
mod fixtures;
mod fixtures_run;
mod folders;
mod gpu_stages;
mod hub;
mod plan;
mod plan_memory;
mod recipes;
mod rows_and_limits;
mod schema;
mod stages;
mod templates;

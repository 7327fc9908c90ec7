//! Which policies `serve` answers with: a model and adapters over it, or the iterations of a run, as many as fit.

mod policies;

pub(crate) use policies::{PolicyPlace, load_policies, places_of_model, places_of_run};

//! A row of a data file.

use serde_json::{Map, Value};

/// A row of a data file, as it stands.
pub type DataRow = Map<String, Value>;

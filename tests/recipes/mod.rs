//! Recipes.

mod schema;
mod shipped;
mod wrong;

//! Recipes.

mod schema;
mod shipped;
mod siblings;
mod wrong;

//! Every family of decoders: what it computes, against its equations, and its model folders.

mod equations;
mod families;
mod folders;
